"""Fixtures: a fake S3 for unit tests, and one real embedded stack for everything that must be real."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command_line
import httpx
import pandas as pd
import pytest
from breakers import disable_breaker
from ledgers import new_ledger
from moto.server import ThreadedMotoServer
from pydantic import SecretStr
from xdist.scheduler import LoadScopeScheduling

from dropflow import drops
from dropflow.datasets import Dataset
from dropflow.declarations import load_datasets
from dropflow.demo import Mailbox, smtp_server
from dropflow.embedded.database import embedded_database
from dropflow.embedded.processes import Supervisor
from dropflow.embedded.stack import Stack
from dropflow.ledger import Ledger
from dropflow.prefect_api import PrefectApi, connect_prefect, key_tag
from dropflow.receipts import Receipt, read_receipt
from dropflow.settings import PROJECT, Settings, load_settings
from dropflow.storage import ObjectStore, connect

PATIENCE = 2
"""What is waited for may take so many times as long: a shared machine is half as fast within minutes."""
OUTCOME_SECONDS = 90 * PATIENCE
POLL = 0.25
"""Seconds: most questions are asked of a Prefect server, and each costs it 20 ms of CPU."""


def wait_until(condition: Callable[[], Any], seconds: float = 30, what: str = "the condition") -> Any:
    """Poll until `condition()` is true and return it; fail the test when time runs out."""
    deadline = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(POLL)
    pytest.fail(f"{what} did not come true in {seconds * PATIENCE} s")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith(("DROPFLOW_", "PREFECT_")):
            monkeypatch.delenv(name)


@pytest.fixture
def churn() -> Dataset:
    return load_datasets(PROJECT / "datasets")["churn"]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = new_ledger(tmp_path / "ledger.sqlite")
    yield ledger
    ledger.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a running PostgreSQL; what is in it is anybody's."""
    # Not below pytest's own folder: where tests run as root, PostgreSQL runs under another account.
    data_dir = Path(tempfile.mkdtemp(prefix="dropflow-postgres-"))
    database = embedded_database(data_dir)
    assert database.process, "PostgreSQL comes from the package index"
    supervisor = Supervisor()
    supervisor.start(database.process)
    database.process.wait_ready(60)
    url = database.environment["PREFECT_API_DATABASE_CONNECTION_URL"]
    yield url.replace("+asyncpg", "+psycopg")
    supervisor.stop()
    shutil.rmtree(data_dir)


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def store_environment(endpoint: str) -> dict[str, str]:
    """How a process is told of the fake store."""
    return {
        "DROPFLOW_S3_ENDPOINT": endpoint,
        "DROPFLOW_S3_ACCESS_KEY": "testing-access",
        "DROPFLOW_S3_SECRET_KEY": "testing-secret",
    }


@pytest.fixture
def settings(moto_endpoint: str, tmp_path: Path) -> Settings:
    return load_settings(
        tmp_path / "data",
        env_file=tmp_path / ".env",
        s3_endpoint=moto_endpoint,
        s3_access_key="testing-access",
        s3_secret_key="testing-secret",
        prefect_api_url="http://127.0.0.1:9/api",
    )


@pytest.fixture
def store(settings: Settings) -> ObjectStore:
    """An empty fake store with the buckets raw and processed."""
    httpx.post(f"{settings.s3_endpoint}/moto-api/reset").raise_for_status()
    store = connect(settings)
    for bucket in ("raw", "processed"):
        store.ensure_bucket(bucket)
    return store


@dataclass
class Running:
    """The running stack, and what tests do with it."""

    stack: Stack
    mailbox: Mailbox
    dataset: Dataset
    store: ObjectStore
    prefect: PrefectApi

    @property
    def settings(self) -> Settings:
        return self.stack.settings

    def cli(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user would, in a clean environment with `more` in it."""
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}
        environment["DROPFLOW_DATA_DIR"] = str(self.settings.data_dir)
        environment["DROPFLOW_ENV_FILE"] = str(self.settings.env_file)
        return command_line.run(list(arguments), Path.cwd(), environment | more)

    def put(self, key: str, content: bytes, bucket: str = "raw") -> drops.Drop:
        started = pd.Timestamp.now("UTC").to_pydatetime()
        ref = self.store.put(bucket, key, content, "text/csv")
        return drops.Drop(Path(key), ref, None, started)

    def outcome(self, drop: drops.Drop) -> drops.Outcome:
        return drops.wait(self.store, self.prefect, self.dataset, drop, OUTCOME_SECONDS)

    def receipt(self, drop: drops.Drop) -> Receipt | None:
        return read_receipt(self.store, self.dataset, drop.ref)

    def runs(self, drop: drops.Drop) -> list[dict[str, Any]]:
        return self.prefect.runs_tagged(key_tag(drop.ref.key), drop.started)

    def api(self, method: str, path: str, **body: Any) -> Any:
        answer = self.prefect.http.request(method, path, timeout=30, **body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def fate(self, key: str) -> tuple[str, str] | None:
        """Fate and reason of a key, by `dropflow status`'s own source."""
        ledger = Ledger(self.settings.ledger)
        found = ledger.find("raw", key)
        ledger.close()
        return (found[0].fate.value, found[0].reason) if found else None


OF_ITS_OWN = ("test_tutorial", "test_secrets", "test_compose", "test_two_listeners", "test_cluster")
"""Files that start many processes, or take long."""


class StackFirst(LoadScopeScheduling):
    """All tests of the embedded stack go to one process, which starts it once, and begins with them."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if "test_stack" in file:
            return "stack"
        return file if any(one in file for one in OF_ITS_OWN) else nodeid


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for processes that they have started."""
    return (os.cpu_count() or 1) + 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> StackFirst:
    return StackFirst(config, log)


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """The embedded stack with a mailbox, applied and listening: started once for all tests."""
    for name in [name for name in os.environ if name.startswith(("DROPFLOW_", "PREFECT_"))]:
        del os.environ[name]
    # Not below pytest's own folder, which other accounts cannot enter: PostgreSQL runs as one of them
    # where the tests run as root.
    data_dir = Path(tempfile.mkdtemp(prefix="dropflow-stack-"))
    with smtp_server() as (mailbox, url):
        (data_dir / ".env").write_text(
            "DROPFLOW_SWEEP_SECONDS=5\nDROPFLOW_RECEIPT_SECONDS=8\nDROPFLOW_ORPHAN_SECONDS=5\n"
            "DROPFLOW_LARGE_FILE_MIB=2\n"
        )
        settings = load_settings(data_dir, env_file=data_dir / ".env")
        with Stack(settings) as stack:
            settings = stack.settings
            running = Running(
                stack,
                mailbox,
                load_datasets(settings.datasets_dir)["churn"],
                connect(settings),
                connect_prefect(settings),
            )
            applied = _apply_with(running, url)
            assert applied.returncode == 0, applied.stderr
            # Tests drop bad files of churn on purpose, more than its breaker allows.
            disable_breaker(settings, "churn")
            stack.listen()
            yield running
    shutil.rmtree(data_dir)


def _apply_with(running: Running, url: SecretStr) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("dropflow")), "apply", "--json"]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "DROPFLOW_DATA_DIR": str(running.settings.data_dir),
        "DROPFLOW_NOTIFY_URLS": url.get_secret_value(),
    }
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
