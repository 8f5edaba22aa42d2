"""The whole pipeline on one machine: store, Prefect server, worker and listener, supervised."""

import fcntl
import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from dropflow.datasets import Datasets
from dropflow.declarations import load_datasets
from dropflow.embedded.database import embedded_database
from dropflow.embedded.environment import PREFECT, TRACES, for_the_worker, inherited
from dropflow.embedded.private import close_to_others, open_private, write_private
from dropflow.embedded.processes import LOOPBACK, Process, Supervisor, answers, free_port
from dropflow.embedded.stores import StoreAccess, Webhook, bind_minio_webhook, minio, seaweedfs
from dropflow.errors import SettingsError
from dropflow.prefect_env import prefect_environment
from dropflow.receipts import PREFIX
from dropflow.settings import PREFIX as VARIABLE
from dropflow.settings import Settings, StoreKind, file_values, load_settings
from dropflow.storage import connect

STORE_SECONDS = 60
SERVER_SECONDS = 240
"""A first start migrates a new database: some 20 s on a busy machine."""
USER = "dropflow"
"""Who signs in to the Prefect server, where nobody has chosen otherwise."""
_PLAIN = re.compile(r"[\w./:@%+=-]*")
INNER_PORTS = ("master", "volume", "filer", "admin")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Ports:
    """Ports asked for; None: the one used last time if it is still free, else any free one."""

    s3: int | None = None
    prefect: int | None = None
    webhook: int | None = None


class Stack:
    """`with Stack(settings) as stack:` starts what is not set to be elsewhere, and stops it again.

    `stack.settings` then has every address; `<data-dir>/stack.env` tells them to other processes.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: StoreKind = "seaweedfs",
        ports: Ports | None = None,
        report: Report = lambda _: None,
    ) -> None:
        self.settings = settings
        self._kind = store
        self._ports = ports or Ports()
        self._report = report
        self._lock: IO[str] | None = None
        # What an earlier `up` wrote down is ours to start again; anything else is somebody's choice.
        saved = file_values(settings.stack_file)
        self._own_store = settings.s3_endpoint in (None, saved.get(f"{VARIABLE}S3_ENDPOINT"))
        self._own_server = settings.prefect_api_url in (None, saved.get(f"{VARIABLE}PREFECT_API_URL"))
        self._decided: dict[str, str] = {}
        """What our own processes are told of it, as variables."""

    @property
    def embedded(self) -> bool:
        """Whether both store and server are ours to start."""
        return self._own_store and self._own_server

    def sign_in(self, *, shown: bool) -> str:
        """What our own Prefect server's UI asks for; not `shown`, where to find it; "" for another server."""
        auth = self.settings.prefect_auth
        if not self._own_server or auth is None:
            return ""
        return auth.get_secret_value() if shown else f"DROPFLOW_PREFECT_AUTH in {self.settings.stack_file}"

    def __enter__(self) -> Self:
        self._lock = _lock(self.settings.data_dir)
        self.supervisor = Supervisor()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self.supervisor.stop()
        if self._lock:
            self._lock.close()

    def _start(self) -> None:
        datasets = load_datasets(self.settings.datasets_dir)
        self._save(datasets)
        if self._own_server:
            self._start_server()
        # The worker imports and warms up while the server starts; it waits for the server itself.
        self._start_worker()
        store = connect(self.settings)
        if self._own_store:
            self.supervisor.processes["store"].wait_ready(STORE_SECONDS)
        waiting = "; waiting for the Prefect server" if self._own_server else ""
        self._report(f"Object store ready at {self.settings.s3_endpoint}{waiting}")
        for bucket in datasets.buckets:
            store.ensure_bucket(bucket)
        if self._own_store and self._kind == "minio":
            bind_minio_webhook(store, _watched(datasets))
        if self._own_server:
            self.supervisor.processes["prefect"].wait_ready(SERVER_SECONDS)
        self._report(f"Prefect ready at {self.settings.prefect_ui}")

    def _start_server(self) -> None:
        database = embedded_database(self.settings.data_dir)
        self._report(f"Starting the Prefect server on {database.name}")
        if database.process:
            self.supervisor.start(database.process)
            database.process.wait_ready(STORE_SECONDS)
        auth = self.settings.prefect_auth
        assert auth
        environment = {
            **inherited(PREFECT),
            **database.environment,
            **prefect_environment(self.settings),
            # Who reaches an open API has any code run: each web page, and each user of the machine.
            "PREFECT_SERVER_API_AUTH_STRING": auth.get_secret_value(),
        }
        server = ["-m", "prefect", "server", "start", *_address(self.settings)]
        self._run("prefect", server, _api_ready, environment)

    def _start_worker(self) -> None:
        environment = for_the_worker({**prefect_environment(self.settings), **self._decided})
        self._run("worker", ["-m", "dropflow", "worker"], lambda _: True, environment)

    def _start_listener(self) -> None:
        environment = {**inherited(VARIABLE, TRACES), **self._decided}
        self._run("listener", ["-m", "dropflow", "listen"], _webhook_ready, environment)

    def listen(self) -> None:
        """Start the listener: only once automations are in place, or its first events go nowhere."""
        self._start_listener()
        if self.settings.webhook_port:
            self.supervisor.processes["listener"].wait_ready(STORE_SECONDS)
        self._report("Listener ready")

    def _save(self, datasets: Datasets) -> None:
        """Decide addresses and credentials, write them down, start the store that needs them."""
        before = self.settings
        token, key, secret = before.webhook_token, before.s3_access_key, before.s3_secret_key
        auth = before.prefect_auth
        values = {
            "WEBHOOK_PORT": str(self._port("webhook", self._ports.webhook, before.webhook_port)),
            "WEBHOOK_TOKEN": token.get_secret_value() if token else secrets.token_urlsafe(24),
        }
        if self._own_server:
            port = self._port("prefect", self._ports.prefect, _port_of(before.prefect_api_url))
            values["PREFECT_API_URL"] = f"http://{LOOPBACK}:{port}/api"
            values["PREFECT_AUTH"] = (
                auth.get_secret_value() if auth else f"{USER}:{secrets.token_urlsafe(24)}"
            )
        if self._own_store:
            access = StoreAccess(
                self._port("s3", self._ports.s3, _port_of(before.s3_endpoint)),
                key.get_secret_value() if key else secrets.token_hex(10),
                secret.get_secret_value() if secret else secrets.token_hex(20),
            )
            values |= {
                "S3_ENDPOINT": access.endpoint,
                "S3_ACCESS_KEY": access.access_key,
                "S3_SECRET_KEY": access.secret_key,
                "LISTEN_STREAM": str(self._kind == "minio").lower(),
            }
        _write(before.stack_file, values)
        self._decided = {
            f"{VARIABLE}DATA_DIR": str(before.data_dir),
            f"{VARIABLE}ENV_FILE": str(before.env_file.absolute()),
            **{f"{VARIABLE}{name}": value for name, value in values.items()},
        }
        decided = {name.lower(): value for name, value in values.items()}
        self.settings = load_settings(before.data_dir, env_file=before.env_file, **decided)
        if self._own_store:
            self._report(f"Starting {self._kind}")
            self._start_store(access, datasets)

    def _port(self, what: str, wanted: int | None, last: int | None) -> int:
        port = free_port(wanted or last)
        if wanted and port != wanted:
            raise SettingsError(f"the {what} port {wanted} is taken; give another or leave it out")
        return port

    def _start_store(self, access: StoreAccess, datasets: Datasets) -> None:
        folder = self.settings.data_dir / self._kind
        assert self.settings.webhook_token
        webhook = Webhook(
            self._webhook_url(), self.settings.webhook_token.get_secret_value(), _watched(datasets)
        )
        if self._kind == "minio":
            command, environment = minio(folder, access, webhook)
        else:
            inner = [free_port() for _ in INNER_PORTS]
            command, environment = seaweedfs(folder, access, inner, webhook)
        log_file = self.settings.data_dir / "logs" / "store.log"
        ready = _store_ready(self.settings)
        self.supervisor.start(Process("store", command, environment, log_file, ready))

    def _webhook_url(self) -> str:
        return self.settings.webhook

    def _run(
        self,
        name: str,
        arguments: list[str],
        ready: Callable[[Settings], bool],
        environment: dict[str, str],
    ) -> None:
        log_file = self.settings.data_dir / "logs" / f"{name}.log"
        # Safe path: what lies in the folder that `up` was started in must not stand in for a library.
        environment = {**environment, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
        command = [sys.executable, *arguments]
        process = Process(name, command, environment, log_file, lambda: ready(self.settings))
        self.supervisor.start(process)


def _watched(datasets: Datasets) -> list[tuple[str, str]]:
    """What the store tells the listener: all raw objects, and all receipts."""
    return [(b, "") for b in datasets.raw_buckets] + [(b, PREFIX) for b in datasets.output_buckets]


def _lock(data_dir: Path) -> IO[str]:
    """One stack per data directory. Raises SettingsError when another one runs."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = open_private(data_dir / "up.lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise SettingsError(f"a stack is running in {data_dir} already; stop it or take another") from error
    close_to_others(data_dir)
    return lock


def _write(path: Path, values: dict[str, str]) -> None:
    text = "# Written by `dropflow up`; other commands find the running stack by it. Holds secrets.\n"
    text += "".join(f"{VARIABLE}{name}={_quoted(value)}\n" for name, value in values.items())
    write_private(path, text.encode())


def _quoted(value: str) -> str:
    """As a settings file has it: secrets that somebody has chosen may hold anything."""
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _port_of(url: str | None) -> int | None:
    return httpx.URL(url).port if url else None


def _address(settings: Settings) -> list[str]:
    url = httpx.URL(settings.prefect_api)
    return ["--host", url.host, "--port", str(url.port)]


def _api_ready(settings: Settings) -> bool:
    return answers(f"{settings.prefect_api}/health")


def _webhook_ready(settings: Settings) -> bool:
    return answers(f"{settings.listener}/healthz")


def _store_ready(settings: Settings) -> Callable[[], bool]:
    store = connect(settings)

    def ready() -> bool:
        try:
            store.client.list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True

    return ready
