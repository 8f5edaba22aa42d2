"""MLflow: every model is logged once, with all that tells of it, and nothing that goes wrong there matters."""

import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from memory_store import MemoryStore

from dropflow.datasets import Dataset
from dropflow.declarations import load_datasets
from dropflow.errors import PermanentError
from dropflow.settings import PROJECT, load_settings
from flows import models, tracking
from flows.models import ModelCard, Registered, Source

IRIS = load_datasets(PROJECT / "datasets")["iris"]
RECEIPT = "_receipts/iris/iris/a.csv/e.f.json"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in tracking.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def client(database: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(database)


@pytest.fixture
def store() -> Any:
    store = MemoryStore()
    for name in tracking.ARTIFACTS:
        store.put("processed", f"_models/iris/v0003/{name}", f"the {name} ä".encode(), "")
    return store


def registered(run: str, **changes: Any) -> Registered:
    card = ModelCard(
        dataset="iris",
        version=3,
        task="classification",
        model="random_forest",
        estimator="RandomForestClassifier",
        options={"n_estimators": 20},
        seed=7,
        target="species",
        features=("a", "b"),
        better_by="f1",
        metrics={"f1": 0.9, "accuracy": 0.8},
        baseline_metrics={"f1": 0.3},
        rows_train=100,
        rows_test=50,
        data=(Source(receipt_key=RECEIPT, etag="e"),),
        preprocessor_version="v2",
        flow_run_id=run,
        trained_at=datetime(2026, 11, 1, tzinfo=UTC),
        tag="best",
    )
    return Registered(card.model_copy(update=changes), None, "the first model")


def runs(client: Any, run: str, dataset: Dataset = IRIS) -> list[Any]:
    experiment = client.get_experiment_by_name(dataset.name).experiment_id
    return list(client.search_runs([experiment], f"tags.`dropflow.flow_run_id` = '{run}'"))


def test_a_model_is_logged_once_with_all_that_tells_of_it(store: Any, database: str, client: Any) -> None:
    for _ in range(2):
        tracking.record(database, store, IRIS, registered("run-1"))
    (run,) = runs(client, "run-1")
    assert (run.info.run_name, run.info.status) == ("iris v0003", "FINISHED")
    assert run.info.start_time == 1_793_491_200_000
    assert run.data.metrics == {"f1": 0.9, "accuracy": 0.8, "baseline_f1": 0.3}
    assert run.data.params == {
        "model": "random_forest",
        "task": "classification",
        "target": "species",
        "seed": "7",
        "features": "2",
        "rows_train": "100",
        "rows_test": "50",
        "better_by": "f1",
        "options.n_estimators": "20",
    }
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("dropflow.")}
    assert tags == {
        "dropflow.model": "iris v0003",
        "dropflow.dataset": "iris",
        "dropflow.version": "3",
        "dropflow.best_when_registered": "yes",
        "dropflow.verdict": "the first model",
        "dropflow.data": RECEIPT,
        "dropflow.preprocessor_version": "v2",
        "dropflow.flow_run_id": "run-1",
        "dropflow.url": "s3://processed/_models/iris/v0003/",
    }
    for name in tracking.ARTIFACTS:
        assert Path(client.download_artifacts(run.info.run_id, name)).read_text() == f"the {name} ä"


def test_what_an_attempt_began_is_carried_on(store: Any, database: str, client: Any) -> None:
    tracking.record(database, store, IRIS, registered("run-2"))
    (run,) = runs(client, "run-2")
    client.update_run(run.info.run_id, status="RUNNING")
    tracking.record(database, store, IRIS, registered("run-2"))
    (again,) = runs(client, "run-2")
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    assert len(client.get_metric_history(run.info.run_id, "f1")) == 1


def test_the_same_version_of_emptied_buckets_is_another_model(store: Any, database: str, client: Any) -> None:
    for name in ("run-3", "run-4"):
        tracking.record(database, store, IRIS, registered(name))
    assert runs(client, "run-3")[0].info.run_id != runs(client, "run-4")[0].info.run_id


def test_what_is_too_long_is_cut(store: Any, database: str, client: Any) -> None:
    options = {f"option{i}": "x" * 7_000 for i in range(120)}
    data = tuple(Source(receipt_key=f"{RECEIPT}{i}", etag="e") for i in range(500))
    tracking.record(database, store, IRIS, registered("run-5", options=options, data=data))
    (run,) = runs(client, "run-5")
    assert run.data.params["rows_test"] == "50"
    assert (len(run.data.params), len(run.data.params["options.option0"])) == (100, 6_000)
    assert run.data.tags["dropflow.data"].startswith(f"{RECEIPT}0\n")


def test_without_its_artifacts_a_run_is_whole_otherwise(
    store: Any, database: str, client: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    dataset = IRIS.model_copy(update={"name": "no_artifacts"})
    client.create_experiment(dataset.name, artifact_location=str(tmp_path / "file" / "below"))
    for name in tracking.ARTIFACTS:
        store.put("processed", f"{models.folder(dataset, 3)}{name}", b"x", "")
    with pytest.raises(PermanentError, match="NotADirectoryError"):
        tracking.record(database, store, dataset, registered("run-6"))
    (run,) = runs(client, "run-6", dataset)
    assert (run.info.status, run.data.metrics["f1"]) == ("FINISHED", 0.9)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://me:hu%2Fsh@127.0.0.1:9", r"http://\*\*\*@127\.0\.0\.1:9.*Connection refused"),
        ("http//me:hu%2Fsh@127.0.0.1:9", "maintenance mode"),
        ("other://me:hu%2Fsh@127.0.0.1:9", "unsupported URI"),
        ("http://[me:hu%2Fsh@127.0.0.1", "Invalid IPv6 URL"),
        ("mssql+nothing://me:hu%2Fsh@127.0.0.1:9/x", "NoSuchModuleError|not a valid"),
    ],
)
def test_a_server_that_is_not_there_is_told_at_once_without_its_secrets(
    store: Any, uri: str, told: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    with pytest.raises(PermanentError, match=told) as raised:
        tracking.record(uri, store, IRIS, registered("run-7"))
    assert time.monotonic() - started < 5
    printed = capfd.readouterr()
    said = f"{raised.value}{caplog.text}{printed.out}{printed.err}"
    assert "hu%2Fsh" not in said
    assert "hu/sh" not in said


def test_a_server_that_says_nothing_is_asked_once(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(PermanentError, match="Read timed out"):
            tracking.record(uri, store, IRIS, registered("run-8"))
        assert time.monotonic() - started < 2


def test_a_missing_package_is_named(store: Any, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(PermanentError, match=r"pip install 'dropflow\[mlflow\]'"):
        tracking.record(database, store, IRIS, registered("run-9"))


def test_the_uri_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROPFLOW_MLFLOW_TRACKING_URI", "http://me:hush@example.com")
    assert "hush" not in repr(load_settings())


def test_mlflow_is_not_imported_unless_asked_for() -> None:
    code = "import sys, flows.warm; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=PROJECT)
