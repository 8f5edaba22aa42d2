"""A listener takes up other datasets while it runs."""

import logging
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httpx
import pytest
from command_line import LISTEN, started
from conftest import store_environment, wait_until
from fake_prefect import FakePrefect, fake_prefect

from dropflow.datasets import Datasets
from dropflow.declarations import load_datasets
from dropflow.embedded.processes import LOOPBACK, answers, free_port
from dropflow.errors import TransientError
from dropflow.ledger import Fate, Ledger
from dropflow.prefect_api import PrefectApi
from dropflow.settings import PROJECT, Settings
from dropflow.storage import ObjectStore
from listeners.declared import Declared

TOKEN = "a token of tests"


@dataclass
class Applied:
    """What Prefect says has been applied."""

    names: set[str] = field(default_factory=set)
    away: bool = False

    def deployed(self) -> set[str]:
        if self.away:
            raise TransientError("Prefect is away")
        return self.names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "datasets"
    folder.mkdir()
    shutil.copy(PROJECT / "datasets" / "churn.yaml", folder)
    return folder


def declare(folder: Path, name: str) -> None:
    shutil.copy(PROJECT / "datasets" / f"{name}.yaml", folder)


def watched(folder: Path, applied: Applied) -> Declared:
    return Declared(folder, load_datasets(folder), cast(PrefectApi, applied))


def test_a_new_dataset_is_taken_up_once_it_is_applied(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    applied = Applied({"churn"})
    declared = watched(folder, applied)
    assert declared.others() is None
    declare(folder, "iris")
    assert declared.others() is None
    assert declared.others() is None
    assert caplog.messages == ["iris: taken up once `dropflow apply` has been there"], "said once"
    applied.names.add("iris")
    found = declared.others()
    assert found
    assert set(found.by_name) == {"churn", "iris"}


def test_where_prefect_is_away_it_is_asked_again(folder: Path) -> None:
    applied = Applied({"churn", "iris"}, away=True)
    declared = watched(folder, applied)
    declare(folder, "iris")
    for _ in range(2):
        with pytest.raises(TransientError):
            declared.others()
    applied.away = False
    assert declared.others()


def test_while_a_file_is_wrong_datasets_stay_as_they_were(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    declared = watched(folder, Applied())
    good = (folder / "churn.yaml").read_text()
    (folder / "churn.yaml").write_text(good.replace("match:", "mtach:"))
    assert declared.others() is None
    assert declared.others() is None
    (told,) = caplog.messages
    assert told.startswith("datasets stay as they were: ")
    assert "churn.yaml" in told
    (folder / "churn.yaml").write_text(good.replace("raw/churn/", "raw/customers/"))
    found = declared.others()
    assert found
    assert found["churn"].match.startswith("raw/customers/")


def test_what_reads_the_same_and_what_is_removed(folder: Path) -> None:
    declare(folder, "iris")
    declared = watched(folder, Applied())
    with (folder / "churn.yaml").open("a") as file:
        file.write("# a comment\n")
    assert declared.others() is None
    (folder / "iris.yaml").unlink()
    assert declared.others() == Datasets({"churn": load_datasets(folder)["churn"]})


@pytest.fixture
def prefect() -> Iterator[FakePrefect]:
    with fake_prefect() as fake:
        fake.deployed.add("churn")
        yield fake


def test_a_running_listener_goes_on_with_other_datasets(
    settings: Settings, store: ObjectStore, prefect: FakePrefect, folder: Path, tmp_path: Path
) -> None:
    port = free_port()
    environment = {
        "PATH": "",
        "DROPFLOW_DATA_DIR": str(tmp_path / "data"),
        "DROPFLOW_DATASETS_DIR": str(folder),
        **store_environment(settings.s3_endpoint or ""),
        "DROPFLOW_PREFECT_API_URL": prefect.url,
        "DROPFLOW_LISTEN_STREAM": "false",
        "DROPFLOW_WEBHOOK_PORT": str(port),
        "DROPFLOW_WEBHOOK_TOKEN": TOKEN,
        "DROPFLOW_SWEEP_SECONDS": "1",
    }
    with started(LISTEN, environment, tmp_path / "log") as process:
        wait_until(lambda: answers(f"http://{LOOPBACK}:{port}/readyz"), 60, "the listener")
        store.put("raw", "iris/1.csv", b"sepal_length\n1\n", "text/csv")
        ledger = Ledger(f"sqlite:///{tmp_path}/data/ledger.sqlite")
        wait_until(
            lambda: [e for e in ledger.find("raw", "iris/1.csv") if e.fate != Fate.PENDING], 30, "a fate"
        )
        assert ledger.find("raw", "iris/1.csv")[0].fate.value == "ignored"

        with httpx.Client() as keeping_alive:
            assert keeping_alive.get(f"http://{LOOPBACK}:{port}/healthz").is_success
            declare(folder, "iris")
            prefect.deployed.add("iris")
            wait_until(lambda: "iris/1.csv" in prefect.keys, 30, "the event of what was there before")
        assert answers(f"http://{LOOPBACK}:{port}/healthz"), "by the same port"
        store.put("raw", "iris/2.csv", b"sepal_length\n2\n", "text/csv")
        store.put("raw", "churn/1.csv", b"Age\n2\n", "text/csv")
        wait_until(lambda: {"iris/2.csv", "churn/1.csv"} <= {*prefect.keys}, 30, "the events of later ones")
        assert len(ledger.watch.sources()) == 1, "the listener of before has left"
        ledger.close()
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    log = (tmp_path / "log").read_text()
    assert "other datasets are declared: taking them up" in log
    assert "Traceback" not in log
