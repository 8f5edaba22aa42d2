"""Faults: every service of docker-compose.yaml runs, one fault at a time is brought about, and healed.

    make faults                                      all drills
    .venv/bin/python tests/faults.py --only NAME     one

Files are dropped before, during and after each fault. What the services say meanwhile is shown, and how long
healing takes; at the end every file must have its receipt or another fate, exactly one, and `dropflow audit` must
find nothing unaccounted for. The services are processes in a network of their own (tests/composing.py,
tests/links.py), which needs root.
"""

import argparse
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import composing
import httpx
import psycopg
from composing import Composed
from fake_prefect import fake_prefect
from links import Link, enter_namespace
from rich.console import Console
from rich.table import Table

from dropflow import first_run
from dropflow.audit import audit
from dropflow.declarations import load_datasets
from dropflow.ledger import Ledger
from dropflow.logs import log_to_stderr
from dropflow.receipts import PREFIX, Receipt
from dropflow.samples import churn_csv
from dropflow.settings import PROJECT, Settings
from dropflow.status import Status, read_status
from dropflow.storage import ObjectStore, connect

FILES = 4
"""Dropped before, during and after a fault."""
SETTLE_SECONDS = 120.0
SERVERS = ("silo", "prefect", "postgres")
"""What links lead to."""
LISTENERS, WORKERS = ("listener-1", "listener-2"), ("worker.1",)
TELLERS = (*LISTENERS, *WORKERS)
KEY_PARTS = ("ACCESS", "SECRET")
MAIL = "mailto://mail:1025?from=dropflow@example.com&to=you@example.com&format=text"
log = logging.getLogger("faults")
out = Console(highlight=False, soft_wrap=True, width=200)


class Faulty(Composed):
    """Every client reaches every server through a link of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.links: dict[tuple[str, str], Link] = {}
        self.changed: dict[str, dict[str, str]] = {}
        """Variables of one service that are other than declared."""

    def environment(self, name: str) -> dict[str, str]:
        found = super().environment(name) | self.changed.get(name, {})
        if name not in (*TELLERS, "prefect"):
            return found
        for what in KEY_PARTS if name in TELLERS else ():
            file = self.folder / f"{name.partition('.')[0].partition('-')[0]}-{what}"
            if not file.exists():
                file.write_text(found[f"DROPFLOW_S3_{what}_KEY"])
            found[f"DROPFLOW_S3_{what}_KEY_FILE"] = str(file)
            del found[f"DROPFLOW_S3_{what}_KEY"]
        for server in SERVERS:
            if server != name:
                address = self.addresses[server]
                behind = {key for key, text in found.items() if address in text}
                if behind:
                    link = self.link(name, server)
                    found |= {key: found[key].replace(address, link.address) for key in behind}
        return found

    def _supervise(self, name: str, command: list[str], environment: dict[str, str], **more: Any) -> None:
        """Servers listen on every address, as they do in their containers."""
        if name in SERVERS:
            address = self.addresses[name]
            command = [
                re.sub(rf"^((-ip.bind|listen_addresses)=)?{address}$", r"\g<1>0.0.0.0", word)
                for word in command
            ]
        super()._supervise(name, command, environment, **more)

    def _is_healthy(self, name: str) -> bool:
        """Not without a pause: a check is a program, and takes CPU from what is being started."""
        time.sleep(1)
        return super()._is_healthy(name)

    def link(self, client: str, server: str) -> Link:
        if (client, server) not in self.links:
            self.links[client, server] = Link(f"127.250.0.{len(self.links) + 1}")
        return self.links[client, server]

    @contextmanager
    def cut(self, clients: tuple[str, ...], server: str) -> Iterator[None]:
        links = [self.link(client, server) for client in clients]
        for one in links:
            one.cut()
        try:
            yield
        finally:
            for one in links:
                one.mend()

    def ledger(self) -> Ledger:
        """The first listener's, as it is set now."""
        variables = self.environment(LISTENERS[0])
        folder = variables["DROPFLOW_DATA_DIR"]
        return Ledger(variables["DROPFLOW_LEDGER_URL"] or f"sqlite:///{folder}/ledger.sqlite")

    def doctor(self, where: str) -> list[str]:
        """What `dropflow doctor` finds that is not well, with what to do."""
        done = self.run(where, ["dropflow", "doctor", "--json"])
        findings = json.loads(done.stdout)
        bad = [one for one in findings if one["state"] in ("failed", "warning")]
        return [f"{one['name']}: {one['found']} ({one['to_do']})" for one in bad]

    def audit(self) -> str:
        """What `dropflow audit` says, unless all is well."""
        done = self.run(LISTENERS[0], ["dropflow", "audit", "--json"])
        return done.stdout + done.stderr if done.returncode else ""

    def renew_key(self, who: str) -> None:
        """A new key for the user `who`, in the files that its services read."""
        iam = self.client("iam", *self.root)
        key = iam.create_access_key(UserName=who)["AccessKey"]
        (self.folder / f"{who}-ACCESS").write_text(key["AccessKeyId"])
        (self.folder / f"{who}-SECRET").write_text(key["SecretAccessKey"])

    def restart(self, *names: str) -> None:
        """In order, with their variables as they are now."""
        for name in names:
            self.supervisor.processes[name].stop()
        for name in names:
            process = self.supervisor.processes[name]
            process.environment = self.environment(name)
            process.start()
            process.wait_ready(composing.HEALTHY_SECONDS)

    @contextmanager
    def with_variables(self, names: tuple[str, ...], variables: dict[str, str]) -> Iterator[None]:
        """Started anew with these, and without them in the end."""
        for name in names:
            self.changed[name] = variables
        self.restart(*names)
        try:
            yield
        finally:
            for name in names:
                del self.changed[name]
            self.restart(*names)

    def as_superuser(self, statement: str) -> None:
        password = (self.folder / "postgres.password").read_text()
        address = self.addresses["postgres"]
        with psycopg.connect(
            host=address, user="dropflow", password=password, dbname="postgres", autocommit=True
        ) as db:
            db.execute(statement)

    @contextmanager
    def down(self, name: str, number: signal.Signals = signal.SIGKILL) -> Iterator[None]:
        """Ended by this signal, and started again afterwards."""
        process = self.supervisor.processes[name]
        os.kill(process.pid, number)
        process.stop()
        try:
            yield
        finally:
            process.start()
            process.wait_ready(composing.HEALTHY_SECONDS)


NOT_STARTED = ("migrate", "prefect", "apply", "worker")


class Light(Faulty):
    """Store, database and listeners as declared; Prefect's part and the worker's are done in this process."""

    def environment(self, name: str) -> dict[str, str]:
        # Else they ask Prefect for its notification block.
        told = {"DROPFLOW_NOTIFY_URLS": self._localized(name, MAIL)} if name in LISTENERS else {}
        return super().environment(name) | told

    def _start(self, name: str) -> None:
        if name not in NOT_STARTED:
            super()._start(name)

    def wait_healthy(self, name: str) -> None:
        if name not in NOT_STARTED:
            super().wait_healthy(name)

    def doctor(self, where: str) -> list[str]:  # noqa: ARG002
        """It asks a Prefect server for more than there is."""
        return []

    def audit(self) -> str:
        """In this process, which has imported all it takes."""
        ledger = self.ledger()
        store = connect_as(self.root, self)
        found = audit(store, load_datasets(PROJECT / "datasets"), ledger)
        ledger.close()
        return "" if found.clean else str(found)

    def work(self, run_id: str, keys: list[str]) -> tuple[str, str]:
        """What a run does, with the worker's address and key of the store."""
        from flows.preparation import Preparation

        variables = self.environment(WORKERS[0])
        settings = {
            "s3_endpoint": variables["DROPFLOW_S3_ENDPOINT"],
            **{f"s3_{what.lower()}_key": (self.folder / f"worker-{what}").read_text() for what in KEY_PARTS},
        }
        store = connect(Settings.model_validate(settings))
        preparation = Preparation(store, load_datasets(PROJECT / "datasets")["churn"], run_id)
        done = [preparation.prepare(key) for key in keys]
        for result, state in (("interrupted", "Interrupted"), ("failed", "Failed"), ("missing", "Failed")):
            if told := [one.message for one in done if one.result == result]:
                return state, "\n".join(told)
        return "Completed", ""


@dataclass
class Seen:
    """What one drill has shown."""

    doctor: list[str] = field(default_factory=list)
    not_ready: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    doctor_seconds: float = 0.0
    during: float = 0.0
    healing: float = 0.0
    events: int = 0
    redelivered: int = 0
    problems: list[str] = field(default_factory=list)


Fault = Callable[["Faulty"], AbstractContextManager[None]]


@dataclass(frozen=True)
class Drill:
    """A fault that lasts for `seconds`. `told`: what somebody must have said meanwhile, as expressions."""

    what: str
    fault: Fault
    told: tuple[str, ...]
    seconds: float = 30
    doctor: str = "listener-1"
    """Where `dropflow doctor` is asked."""
    setting: Fault = lambda _: nullcontext()
    """What is set up before, and undone at the end."""


@contextmanager
def database_restart(stack: Faulty) -> Iterator[None]:
    """SIGQUIT is `pg_ctl stop -m immediate`: no goodbyes, and a recovery at the next start."""
    with stack.down("postgres", signal.SIGQUIT):
        yield


@contextmanager
def redis_lost(stack: Faulty) -> Iterator[None]:
    """With all that it held: Prefect's queue of events, and who reads it how far."""
    with stack.down("redis"):
        for file in (stack.folder / "redis" / "data").iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        yield


def store_key(who: str) -> Fault:
    """The store's key is taken away while everything runs, and a new one comes into the files."""

    @contextmanager
    def fault(stack: Faulty) -> Iterator[None]:
        iam = stack.client("iam", *stack.root)
        iam.delete_access_key(UserName=who, AccessKeyId=(stack.folder / f"{who}-ACCESS").read_text())
        yield
        stack.renew_key(who)

    return fault


@contextmanager
def server_password(stack: Faulty) -> Iterator[None]:
    """Of the Prefect server; nobody else is told."""
    with stack.with_variables(("prefect",), {"PREFECT_SERVER_API_AUTH_STRING": "dropflow:another-password"}):
        yield


@contextmanager
def database_password(stack: Faulty) -> Iterator[None]:
    """Of the ledger's role; who is connected is thrown out."""
    stack.as_superuser("ALTER ROLE ledger PASSWORD 'another-password'")
    stack.as_superuser("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ledger'")
    yield
    stack.as_superuser(f"ALTER ROLE ledger PASSWORD '{stack.variables['LEDGER_DB_PASSWORD']}'")


def clock(seconds: int) -> Fault:
    """A listener's and a worker's clock; the others' and the servers' are right."""

    def fault(stack: Faulty) -> AbstractContextManager[None]:
        names = [name for name in (LISTENERS[0], WORKERS[0]) if name in stack.supervisor.processes]
        variables = {"LD_PRELOAD": libfaketime(), "FAKETIME": f"{seconds:+d}", "DONT_FAKE_MONOTONIC": "1"}
        return stack.with_variables(tuple(names), variables)

    return fault


def libfaketime() -> str:
    """The library's path: from the package index (pip install libfaketime), or the system's own."""
    spec = importlib.util.find_spec("libfaketime")
    beside = Path(spec.origin).parent if spec and spec.origin else Path("/usr/lib")
    found = next(beside.rglob("libfaketime.so.1"), None)
    if found is None:
        raise FileNotFoundError("libfaketime.so.1: pip install libfaketime, or apt install libfaketime")
    return str(found)


@contextmanager
def sqlite_on_a_small_disk(stack: Faulty) -> Iterator[None]:
    """One listener alone, its ledger in a file, everything it writes on a disk of 4 MiB."""
    name, disk = LISTENERS[0], stack.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)  # noqa: S607
    variables = {"DROPFLOW_LEDGER_URL": "", "DROPFLOW_DATA_DIR": str(disk), "TMPDIR": str(disk)}
    with stack.down(LISTENERS[1], signal.SIGTERM), stack.with_variables((name,), variables):
        yield


@contextmanager
def disk_full(stack: Faulty) -> Iterator[None]:
    filler = stack.folder / "disk" / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


def partition(clients: tuple[str, ...], server: str) -> Fault:
    return lambda stack: stack.cut(clients, server)


_NO_HEARTBEAT = r"listener-1: the ledger has taken no heartbeat"
_REFUSED = "answered 403 .*check DROPFLOW_S3_ACCESS_KEY"
DRILLS = {
    "database-restart": Drill("PostgreSQL is stopped and started", database_restart, ("the ledger: ",), 20),
    "redis-lost": Drill("Redis is killed and its data deleted", redis_lost, (), 15),
    "worker-key": Drill(
        "the workers' store key expires",
        store_key("worker"),
        (f"interrupted in run .*{_REFUSED}",),
        60,
        "worker.1",
    ),
    "listener-key": Drill(
        "the listeners' store key expires", store_key("listener"), (f"sweep: .*{_REFUSED}",), 60
    ),
    "server-password": Drill(
        "the Prefect server's password is changed", server_password, ("set DROPFLOW_PREFECT_AUTH",), 20
    ),
    "database-password": Drill(
        "the ledger's password is changed",
        database_password,
        ("authentication failed.*check DROPFLOW_LEDGER_URL", _NO_HEARTBEAT),
        20,
    ),
    "disk-full": Drill(
        "the disk of a listener with SQLite is full",
        disk_full,
        ("disk is full", _NO_HEARTBEAT),
        20,
        setting=sqlite_on_a_small_disk,
    ),
    "clock-ahead": Drill(
        "a listener's and a worker's clock are 10 minutes ahead",
        clock(600),
        (r"clock is [56]\d\d s off",),
        40,
    ),
    "clock-behind": Drill(
        "a listener's and a worker's clock are 10 minutes behind",
        clock(-600),
        (r"clock is [56]\d\d s off",),
        40,
    ),
    "worker-server": Drill(
        "workers are cut off from the Prefect server", partition(WORKERS, "prefect"), (), doctor="worker.1"
    ),
    "worker-store": Drill(
        "workers are cut off from the store",
        partition(WORKERS, "silo"),
        ("ConnectTimeout",),
        doctor="worker.1",
    ),
    "listener-database": Drill(
        "a listener is cut off from PostgreSQL",
        partition(LISTENERS[:1], "postgres"),
        ("the ledger: .*timeout", _NO_HEARTBEAT),
    ),
    "listener-store": Drill(
        "listeners are cut off from the store", partition(LISTENERS, "silo"), ("ConnectTimeout",)
    ),
    "listener-server": Drill(
        "listeners are cut off from the Prefect server",
        partition(LISTENERS, "prefect"),
        ("Prefect API .*Timeout",),
    ),
    "server-database": Drill(
        "the Prefect server is cut off from its database", partition(("prefect",), "postgres"), ()
    ),
}


def connect_as(keys: tuple[str, str], stack: Faulty) -> ObjectStore:
    endpoint = stack._localized("silo", stack.variables["STORE_URL"])
    named = zip(("s3_access_key", "s3_secret_key"), keys, strict=True)
    return connect(Settings.model_validate({"s3_endpoint": endpoint, **dict(named)}))


WITH_PREFECT = {"redis-lost", "server-password", "worker-server", "server-database"}
"""Of no use without."""


class Drops:
    """Files by key, put by whoever owns the store."""

    def __init__(self, stack: Faulty) -> None:
        self.store = connect_as(stack.root, stack)
        self.dataset = load_datasets(PROJECT / "datasets")["churn"]
        self.etags: dict[str, str] = {}

    def drop(self, name: str, number: int = FILES) -> list[str]:
        keys = [f"churn/{name}-{n}.csv" for n in range(number)]
        for key in keys:
            content = churn_csv(rows=200, seed=len(self.etags))
            self.etags[key] = self.store.put("raw", key, content, "text/csv").etag
        return keys

    def receipts(self, below: str) -> Iterator[Receipt]:
        for own in self.store.list("processed", f"{PREFIX}{self.dataset.name}/churn/{below}"):
            yield Receipt.model_validate_json(self.store.get("processed", own.key)[1])

    def problems(self, below: str) -> Iterator[str]:
        """One receipt for each file, and its very output; no output beside."""
        found: dict[str, list[Receipt]] = defaultdict(list)
        for receipt in self.receipts(below):
            found[receipt.key].append(receipt)
        outputs = {ref.key: ref.etag for ref in self.store.list("processed", f"churn/{below}")}
        for key, etag in self.etags.items():
            if not key.startswith(f"churn/{below}"):
                continue
            mine = [receipt for receipt in found[key] if receipt.etag == etag]
            if len(found[key]) != 1 or len(mine) != 1:
                yield f"{key} has {len(found[key])} receipts"
            elif outputs.pop(self.dataset.output_key(key), None) != mine[0].output_etag:
                yield f"the output of {key} is not the one of its receipt"
        yield from (f"the output {key} has no receipt" for key in outputs)


class Logs:
    """What the services say from now on."""

    def __init__(self, stack: Faulty) -> None:
        files = {name: stack.folder / "logs" / f"{name}.log" for name in (*TELLERS, "mail")}
        self._files = {name: path for name, path in files.items() if path.exists()}
        self._since = {name: path.stat().st_size for name, path in self._files.items()}

    def lines(self, name: str) -> list[str]:
        with self._files[name].open("rb") as file:
            file.seek(self._since[name])
            return file.read().decode(errors="replace").splitlines()

    def warnings(self) -> Iterator[str]:
        """Each kind of line once, and how often."""
        for name in self._files.keys() - {"mail"}:
            kinds: dict[str, list[str]] = defaultdict(list)
            for line in self.lines(name):
                if re.search(r"\b(WARNING|ERROR|CRITICAL|Error)\b", line):
                    text = re.sub(r"^\S+ \S+ ", "", line)
                    kinds[re.sub(r"[0-9a-f-]{30,}|\d+", "#", text)[:120]].append(text)
            for texts in kinds.values():
                yield f"{name}: {texts[0][:400]}" + (f"  ({len(texts)} times)" if texts[1:] else "")

    def subjects(self) -> Iterator[str]:
        for line in self.lines("mail") if "mail" in self._files else ():
            if line.startswith(("Subject: ", "b'Subject: ")):
                yield line


@contextmanager
def asked_meanwhile(stack: Faulty, drill: Drill, seen: Seen) -> Iterator[None]:
    """Whether the listeners call themselves ready, and what the doctor says, while the fault lasts."""
    over = threading.Event()

    def doctor() -> None:
        began = time.monotonic()
        try:
            seen.doctor = stack.doctor(drill.doctor)
        except (ValueError, subprocess.TimeoutExpired) as error:
            seen.problems.append(f"doctor: {error!r}")
        seen.doctor_seconds = time.monotonic() - began

    def ready() -> None:
        while not over.wait(1):
            for name in LISTENERS:
                if why := re.sub(r"\d+ s$", "… s", why_not_ready(stack, name)):
                    seen.not_ready.add(f"{name}: {why}")

    threads = [threading.Thread(target=doctor), threading.Thread(target=ready)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def why_not_ready(stack: Faulty, name: str) -> str:
    try:
        answer = httpx.get(f"http://{stack.addresses[name]}:8808/readyz", timeout=5)
    except httpx.HTTPError as error:
        return repr(error)
    return "" if answer.is_success else answer.text.strip()


def status(stack: Faulty) -> Status:
    ledger = stack.ledger()
    try:
        return read_status(ledger)
    finally:
        ledger.close()


def settled(drops: Drops, name: str, seconds: float) -> tuple[float, int]:
    """Seconds until every file has a receipt; and how many have none when time is up."""
    began = time.monotonic()
    mine = {key for key in drops.etags if key.startswith(f"churn/{name}")}
    while missing := mine - {receipt.key for receipt in drops.receipts(name)}:
        if time.monotonic() - began > seconds:
            return seconds, len(missing)
        time.sleep(0.5)
    return time.monotonic() - began, 0


def run(stack: Faulty, drops: Drops, name: str, drill: Drill, seen: Seen, patience: float) -> None:
    out.rule(f"{name}: {drill.what}")
    before, logs = status(stack), Logs(stack)
    drops.drop(f"{name}-before")
    time.sleep(1)
    with asked_meanwhile(stack, drill, seen):
        with drill.fault(stack):
            began = time.monotonic()
            drops.drop(f"{name}-during")
            time.sleep(drill.seconds)
            during = {receipt.key for receipt in drops.receipts(name)}
            seen.during = time.monotonic() - began
        out.print(f"healed after {seen.during:.0f} s, {len(during)} of {2 * FILES} files have a receipt")
        drops.drop(f"{name}-after")
        seen.healing, missing = settled(drops, name, patience * SETTLE_SECONDS)
    if missing:
        seen.problems.append(f"{missing} files have no receipt {seen.healing:.0f} s after the fault")
    prove(stack, drops, name, seen, 40 * patience)
    after = status(stack)
    seen.events, seen.redelivered = after.events - before.events, after.redelivered - before.redelivered
    seen.warnings, seen.messages = list(logs.warnings()), list(logs.subjects())
    said = "\n".join([*seen.warnings, *seen.doctor, *seen.not_ready, *seen.messages])
    seen.problems += [f"nobody said {told!r}" for told in drill.told if not re.search(told, said)]
    show(seen)


def prove(stack: Faulty, drops: Drops, name: str, seen: Seen, seconds: float) -> None:
    """Nothing lost, nothing twice: by the buckets, and by `dropflow audit`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        counts = status(stack).datasets.get(drops.dataset.name, {})
        fates = {fate: number for fate, number in counts.items() if number}
        if fates.keys() <= {"seen", "processed"}:
            break
        time.sleep(1)
    else:
        seen.problems.append(f"not all are processed: {fates}")
    if wrong := stack.audit():
        seen.problems.append(f"audit: {wrong}")
    seen.problems += drops.problems(name)


def show(seen: Seen) -> None:
    out.print(f"all files have a receipt {seen.healing:.0f} s after it was healed")
    out.print(f"events posted {seen.events}, of them redelivered {seen.redelivered}")
    for title, lines in (
        ("log", seen.warnings),
        ("ready?", sorted(seen.not_ready)),
        (f"doctor ({seen.doctor_seconds:.0f} s)", seen.doctor),
        ("messages", seen.messages),
        ("PROBLEM", seen.problems),
    ):
        for line in lines:
            out.print(f"  {title}: {line}", markup=False)


def table(shown: dict[str, Seen]) -> Table:
    result = Table(
        "drill", "fault, s", "healed in, s", "events", "again", "messages", "doctor, s", "problems"
    )
    for name, seen in shown.items():
        numbers = (seen.during, seen.healing)
        counted = (seen.events, seen.redelivered, len(seen.messages), round(seen.doctor_seconds))
        result.add_row(name, *(f"{n:.0f}" for n in numbers), *map(str, counted), str(len(seen.problems)))
    return result


@contextmanager
def running(kind: type[Faulty]) -> Iterator[Faulty]:
    """Everything up, with a mailbox."""
    folder = Path(tempfile.mkdtemp(prefix="dropflow-faults-"))
    variables = first_run.new_secrets()
    variables |= {"DROPFLOW_SWEEP_SECONDS": "10", "DROPFLOW_NOTIFY_URLS": MAIL}
    stack = kind(folder, variables, {*first_run.PROFILES, "mail"}, {"worker": len(WORKERS)})
    try:
        stack.up()
        for name in LISTENERS:
            stack.wait_healthy(name)
        yield stack
    finally:
        stack.supervisor.stop()
    out.print(f"kept: {folder}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=DRILLS, action="append", help="this drill; may be given again")
    parser.add_argument(
        "--patience", type=float, default=1, help="times as long as usual is waited for things"
    )
    parser.add_argument(
        "--light", action="store_true", help="without Prefect and worker: the listeners' drills"
    )
    options = parser.parse_args()
    names = options.only or [name for name in DRILLS if not (options.light and name in WITH_PREFECT)]
    if any(name.startswith("clock") for name in names):
        libfaketime()  # now, and not after five minutes
    enter_namespace()
    composing.HEALTHY_SECONDS *= options.patience
    composing.RUN_SECONDS *= options.patience
    log_to_stderr()
    shown: dict[str, Seen] = {}
    with running(Light if options.light else Faulty) as stack, ExitStack() as more:
        if isinstance(stack, Light):
            prefect = more.enter_context(fake_prefect("0.0.0.0", 4200))  # noqa: S104 - in a network of our own
            prefect.work = stack.work
        drops = Drops(stack)
        drops.drop("first")
        out.print(f"the first files took {settled(drops, 'first', 100 * options.patience)[0]:.0f} s")
        for name in names:
            shown[name] = Seen()
            try:
                with DRILLS[name].setting(stack):
                    run(stack, drops, name, DRILLS[name], shown[name], options.patience)
            except Exception as error:
                log.exception("%s", name)
                shown[name].problems.append(repr(error))
    out.print(table(shown))
    return 1 if any(seen.problems for seen in shown.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
