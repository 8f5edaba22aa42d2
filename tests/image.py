"""The image, without Docker: the Dockerfile's steps are run, and what they make does the main job.

    sudo make image

Each stage gets a root of its own: this machine's /usr, read-only, the Python that FROM names, and nothing else. The steps are taken from the Dockerfile and run there as they stand. Then every service runs from
what was built as a container would: as the image's user without capabilities, on a root that nothing can be
written to but /var/lib/dropflow and /tmp. At last the image is built a second time and compared.

Not the same as in Docker: the base image's Debian, and networks.
"""

import argparse
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from dockerfile import Instruction, context, stages, variables

from dropflow.declarations import load_datasets
from dropflow.embedded.processes import LOOPBACK, Process, Supervisor, answers, free_port
from dropflow.embedded.stores import StoreAccess, Webhook, seaweedfs
from dropflow.receipts import read_receipt
from dropflow.samples import churn_csv
from dropflow.settings import PROJECT, Settings
from dropflow.storage import connect
from flows import alive

SYSTEM_FILES = ("passwd", "group", "shadow", "gshadow", "login.defs", "nsswitch.conf", "hosts", "resolv.conf")
"""Of /etc, what adding a user and asking the package index take."""
INDEX_FILES = ("pip.conf", "ssl", "ld.so.cache")
FOLDERS = (
    "cache",
    "dev/shm",
    "etc",
    "opt",
    "proc",
    "root",
    "run",
    "tmp",
    "usr",
    "var/lib",
    "var/log",
    "var/tmp",
)
DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
INDEX_VARIABLES = re.compile(r"PIP_(INDEX_URL|CERT|DEFAULT_TIMEOUT)|SSL_CERT_FILE|(HTTPS?|NO)_PROXY", re.I)
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in ("automations", "dropflow", "flows", "listeners", "notifications"):
    package = importlib.import_module(name)
    for one in pkgutil.walk_packages(package.__path__, name + "."):
        if not one.name.endswith(("__main__", ".migrations.env")) and ".versions." not in one.name:
            importlib.import_module(one.name)
import psycopg, prefect_redis
"""
WITH_NOTHING_SET = [
    ["dropflow", "--help"],
    ["dropflow", "settings"],
    ["dropflow", "check"],
    ["python", "-m", "pip", "check"],
    ["prefect", "version"],
    ["python", "-m", "aiosmtpd", "--help"],
]
MUST_FAIL = [
    ["python", "-c", "import setuptools"],
    ["touch", "/opt/dropflow/dropflow/cli.py"],
    ["touch", "/etc/passwd"],
]
CACHED = {"PIP_NO_CACHE_DIR": "0", "PIP_CACHE_DIR": "/cache"}
"""Packages are downloaded once for both builds."""
READY_SECONDS = 120.0


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


@dataclass
class Root:
    """A file system being built, and what its processes are given."""

    folder: Path
    environment: dict[str, str]
    directory: str = "/"
    user: str = "0:0"

    @classmethod
    def empty(cls, folder: Path, python: Path, cache: Path) -> "Root":
        for name in FOLDERS:
            (folder / name).mkdir(parents=True)
        for name in ("dev/shm", "tmp", "var/tmp"):
            (folder / name).chmod(0o1777)
        for name, minor in DEVICES.items():
            os.mknod(folder / "dev" / name, stat.S_IFCHR, os.makedev(1, minor))
            (folder / "dev" / name).chmod(0o666)
        for name in ("bin", "sbin", "lib", "lib64"):
            (folder / name).symlink_to(f"usr/{name}")
        # Python where it was made for, which the linker wants; /usr/local of this machine is none of the image's.
        for source in (Path("/usr"), python):
            target = folder / source.relative_to("/")
            target.mkdir(parents=True, exist_ok=True)
            mount("--bind", source, target)
            mount("--options", "remount,bind,ro", target)
        mount("--types", "tmpfs", "tmpfs", folder / "usr/local")
        mount("--types", "proc", "proc", folder / "proc")
        mount("--bind", cache, folder / "cache")
        for name in (*SYSTEM_FILES, *INDEX_FILES):
            source = Path("/etc", name)
            if source.is_dir():
                shutil.copytree(source, folder / "etc" / name, symlinks=True)
            elif source.exists():
                shutil.copy2(source, folder / "etc" / name)
        found = {name: value for name, value in os.environ.items() if INDEX_VARIABLES.fullmatch(name)}
        return cls(folder, {**found, "PATH": f"{python}/bin:/usr/sbin:/usr/bin", "HOME": "/root"})

    def path(self, inside: str) -> Path:
        """Where something of the root is for us."""
        return (
            self.folder / os.path.normpath(f"{self.directory}/{inside}" if inside[0] != "/" else inside)[1:]
        )

    def command(self, words: list[str], environment: dict[str, str]) -> list[str]:
        """What runs `words` inside."""
        uid, gid = self.user.split(":")
        dropped = ["--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
        as_user = [f"--reuid={uid}", f"--regid={gid}", *dropped] if int(uid) else ["--clear-groups"]
        given = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        inside = ["env", "--ignore-environment", f"--chdir={self.directory}", *given]
        return ["chroot", str(self.folder), "setpriv", *as_user, *inside, *words]

    def run(
        self, words: list[str], environment: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        command = self.command(words, environment or {})
        return subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)

    def contained(self, folder: Path) -> "Root":
        """The same as a container of it: nothing can be written but its data, which are empty, and /tmp."""
        inner, data = folder / "root", folder / "data"
        inner.mkdir(parents=True)
        data.mkdir()
        os.chown(data, *map(int, self.user.split(":")))
        mount("--rbind", self.folder, inner)
        mount("--options", "remount,bind,ro", inner)
        mount("--bind", data, inner / "var/lib/dropflow")
        for name in ("tmp", "dev/shm"):
            mount("--types", "tmpfs", "tmpfs", inner / name)
        return Root(inner, dict(self.environment), self.directory, self.user)


def build(folder: Path, python: Path, cache: Path) -> Root:
    """All stages, one after another; the last one is the image."""
    made: dict[str, Root] = {}
    root = None
    for number, stage in enumerate(stages()):
        root = made[stage.name or str(number)] = Root.empty(folder / f"stage-{number}", python, cache)
        for instruction in stage.instructions:
            follow(instruction, root, made)
    assert root
    return root


def follow(instruction: Instruction, root: Root, made: dict[str, Root]) -> None:
    name, value = instruction.name, instruction.value
    started = time.monotonic()
    if name == "ENV":
        root.environment.update(variables(value, root.environment))
    elif name == "WORKDIR":
        root.directory = value
        root.path(value).mkdir(parents=True, exist_ok=True)
    elif name == "USER":
        root.user = value
    elif name == "COPY":
        copy(instruction.words, root, made)
    elif name == "RUN":
        done = root.run(["/bin/sh", "-c", value], CACHED)
        if done.returncode:
            raise SystemExit(f"RUN {value}\n{done.stdout}{done.stderr}")
    elif name not in ("ENTRYPOINT", "CMD"):
        raise SystemExit(f"Dockerfile: {name} is not known to tests/image.py")
    print(f"{time.monotonic() - started:6.1f} s  {name} {' '.join(value.split())[:90]}", flush=True)


def copy(words: list[str], root: Root, made: dict[str, Root]) -> None:
    if words[0].startswith("--from="):
        source, target = made[words[0].removeprefix("--from=")].path(words[1]), root.path(words[2])
        shutil.copytree(source, target, symlinks=True)
        return
    *names, into = words
    sent = sorted(context())
    for name in names:
        base = Path(name)
        found = [path for path in sent if path == base or base in path.parents]
        assert found, f"COPY {name}: nothing of it reaches the build"
        for path in found:
            # Of a folder its content is copied, of a file the file.
            target = root.path(into) / (path.name if path == base else path.relative_to(base))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / path, target)


def files_of(root: Root) -> dict[str, str]:
    """What the steps have made, and what each file holds; bytecode has times in it."""
    found = {}
    for path in sorted([*root.path("/opt").rglob("*"), *root.path("/var/lib").rglob("*")]):
        if path.suffix == ".pyc" or path.name == "__pycache__":
            continue
        mode = oct(path.lstat().st_mode)
        content = os.readlink(path) if path.is_symlink() else _digest(path) if path.is_file() else ""
        found["/" + str(path.relative_to(root.folder))] = f"{mode} {content}"
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(what: str, ok: bool, why: str = "") -> None:
    if not ok:
        raise SystemExit(f"FAILED  {what}\n{why}")
    print(f"ok        {what}", flush=True)


@dataclass
class Services:
    """Server, worker and listener, each a container of the image, on a store of this machine."""

    image: Root
    folder: Path
    supervisor: Supervisor = field(default_factory=Supervisor)
    store_port: int = field(default_factory=free_port)
    prefect_port: int = field(default_factory=free_port)
    listener_port: int = field(default_factory=free_port)

    @property
    def settings(self) -> dict[str, str]:
        return {
            "DROPFLOW_S3_ENDPOINT": f"http://{LOOPBACK}:{self.store_port}",
            "DROPFLOW_S3_ACCESS_KEY": "store",
            "DROPFLOW_S3_SECRET_KEY": "store-secret-key",
            "DROPFLOW_PREFECT_API_URL": f"http://{LOOPBACK}:{self.prefect_port}/api",
            "DROPFLOW_WEBHOOK_PORT": str(self.listener_port),
            "DROPFLOW_WEBHOOK_TOKEN": "a-token-of-the-webhook",
        }

    def do_the_main_job(self) -> None:
        values = {name.removeprefix("DROPFLOW_").lower(): text for name, text in self.settings.items()}
        store = connect(Settings.model_validate(values))

        def store_answers() -> bool:
            try:
                store.client.list_buckets()
            except Exception:  # noqa: BLE001 - it is asked again until its time is over
                return False
            return True

        access = StoreAccess(self.store_port, "store", "store-secret-key")
        webhook = Webhook(
            f"http://{LOOPBACK}:{self.listener_port}/notifications",
            "a-token-of-the-webhook",
            [("raw", ""), ("processed", "_receipts/")],
        )
        command, environment = seaweedfs(
            self.folder / "store", access, [free_port() for _ in range(4)], webhook
        )
        self._start("store", command, environment, store_answers)
        for bucket in ("raw", "processed"):
            store.client.create_bucket(Bucket=bucket)
        api = f"http://{LOOPBACK}:{self.prefect_port}"
        serve = ["prefect", "server", "start", "--host", LOOPBACK, "--port", str(self.prefect_port)]
        self._contain("prefect", serve, {}, lambda: answers(f"{api}/api/health"))
        check("prefect server start, and its UI", "<title>" in httpx.get(f"{api}/").text)
        applied = self.image.contained(self.folder / "apply").run(["dropflow", "apply"], self.settings)
        check("dropflow apply", applied.returncode == 0, applied.stderr)
        self._contain("worker", ["dropflow", "worker"], self.settings, lambda: True)
        listening = f"http://{LOOPBACK}:{self.listener_port}"
        self._contain(
            "listener", ["dropflow", "listen"], self.settings, lambda: answers(f"{listening}/readyz")
        )
        check("dropflow listen is ready", answers(f"{listening}/healthz"))
        dataset = load_datasets(PROJECT / "datasets")["churn"]
        ref = store.put("raw", "churn/a.csv", churn_csv(rows=200, seed=1), "text/csv")
        deadline = time.monotonic() + READY_SECONDS
        while not (receipt := read_receipt(store, dataset, ref)) and time.monotonic() < deadline:
            time.sleep(0.2)
        processed = bool(receipt and receipt.fate == "processed")
        check("dropflow worker has prepared a file", processed, self._logs())
        check("and shows that it lives", (self.folder / "worker" / "data" / alive.NAME).exists())

    def _contain(
        self, name: str, words: list[str], settings: dict[str, str], ready: Callable[[], bool]
    ) -> None:
        container = self.image.contained(self.folder / name)
        self._start(name, container.command(words, settings), {}, ready)

    def _start(
        self, name: str, command: list[str], environment: dict[str, str], ready: Callable[[], bool]
    ) -> None:
        process = Process(name, command, environment, self.folder / f"{name}.log", ready)
        self.supervisor.start(process)
        process.wait_ready(READY_SECONDS)

    def _logs(self) -> str:
        return "\n".join(f"--- {path}\n{path.read_text()[-3000:]}" for path in self.folder.glob("*.log"))


def find_python(base: str) -> Path:
    """The folder of the Python that FROM names, or ours, and says which."""
    wanted = re.findall(r"python:(3\.\d+)", base)[0]
    for program in (f"python{wanted}", sys.executable):
        asked = [program, "-c", "import sys; print(sys.base_prefix)"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        if done.returncode == 0:
            print(f"FROM {base}: {program}")
            return Path(done.stdout.strip())
    raise SystemExit(f"no Python to stand for {base}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, help="folder of the Python that FROM names [looked for]")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if os.geteuid() != 0 or sys.platform != "linux":
        raise SystemExit("tests/image.py mounts and changes users: it needs root, and Linux")
    if arguments.inside:
        try_everything(arguments.inside, arguments.python)
        return
    python = arguments.python or find_python(stages()[-1].base)
    with tempfile.TemporaryDirectory(prefix="dropflow-image-") as folder:
        Path(folder).chmod(0o755)
        # Mounts and processes of a namespace end with it, however this ends; only then the folder is removed.
        namespace = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        again = [sys.executable, __file__, "--python", str(python), "--inside", folder]
        raise SystemExit(subprocess.run([*namespace, *again], check=False).returncode)


def try_everything(folder: Path, python: Path) -> None:
    cache = folder / "cache"
    cache.mkdir()
    image = build(folder / "build", python, cache)
    contained = image.contained(folder / "container")
    for words in WITH_NOTHING_SET:
        done = contained.run(words)
        check(" ".join(words), done.returncode == 0, done.stdout + done.stderr)
    done = contained.run(["python", "-c", IMPORT_ALL])
    check("every module can be imported", done.returncode == 0, done.stderr)
    for words in MUST_FAIL:
        check(f"{' '.join(words)} fails", contained.run(words).returncode != 0)
    services = Services(image, folder / "services")
    try:
        services.do_the_main_job()
    finally:
        services.supervisor.stop()
    first, second = files_of(image), files_of(build(folder / "again", python, cache))
    differing = sorted(path for path in first.keys() | second.keys() if first.get(path) != second.get(path))
    check(f"a second build has the same {len(first):,} files", not differing, "\n".join(differing[:20]))


if __name__ == "__main__":
    main()
