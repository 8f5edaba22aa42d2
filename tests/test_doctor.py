"""`dropflow doctor`: each thing that can be wrong is found, and told with what to do."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from memory_store import MemoryStore
from test_cli import run

from dropflow import doctor
from dropflow.datasets import Datasets
from dropflow.declarations import load_datasets
from dropflow.doctor import Finding, examine
from dropflow.errors import TransientError
from dropflow.ledger import Ledger, SweepReport
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.settings import PROJECT, Settings
from dropflow.storage import ObjectStore


@pytest.fixture
def datasets() -> Datasets:
    return load_datasets(PROJECT / "datasets")


def by_name(settings: Settings) -> dict[str, Finding]:
    return {one.name: one for one in examine(settings)}


def test_a_store_without_prefect_and_ledger(settings: Settings, store: ObjectStore) -> None:
    found = by_name(settings)
    well = ["datasets", "store", "store's clock", "bucket raw", "bucket processed", "disk"]
    assert [name for name, one in found.items() if one.state == "ok"] == well
    assert found["Prefect"].state == "failed"
    assert "DROPFLOW_PREFECT_API_URL" in found["Prefect"].to_do
    assert found["ledger"].state == "left out"
    assert not list(store.list("processed")), "what was put is deleted again"


def test_a_store_that_cannot_be_reached(settings: Settings) -> None:
    found = by_name(settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}))
    assert found["store"].state == "failed"
    assert "DROPFLOW_S3_ENDPOINT" in found["store"].to_do
    assert "bucket raw" not in found


def test_a_bucket_that_is_not_there(settings: Settings, store: ObjectStore) -> None:
    store.client.delete_bucket(Bucket="processed")
    found = by_name(settings)
    assert found["store"].state == "failed"
    assert "bucket processed" in found["store"].found
    assert "make the bucket" in found["store"].to_do


def test_a_server_that_is_no_prefect(settings: Settings, store: ObjectStore) -> None:
    found = by_name(settings.model_copy(update={"prefect_api_url": settings.s3_endpoint}))
    assert found["Prefect"].state == "failed"
    assert "DROPFLOW_PREFECT_API_URL" in found["Prefect"].to_do


def test_a_ledger_that_fails_in_between(
    settings: Settings, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.data_dir.mkdir(parents=True)
    Ledger(settings.ledger).close()

    def gone(*_: Any) -> None:
        raise TransientError("the ledger: gone")

    monkeypatch.setattr(doctor, "_listener", gone)
    found = by_name(settings)
    assert found["ledger"].state == "warning"
    assert found["listener"].found == "the ledger: gone"
    assert found["disk"].state == "ok", "the others are checked all the same"


def test_a_broken_dataset_file_is_named(settings: Settings, store: ObjectStore, tmp_path: Any) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad\n")
    found = by_name(settings.model_copy(update={"datasets_dir": tmp_path}))
    assert found["datasets"].state == "failed"
    assert "bad.yaml" in found["datasets"].found
    assert found["store"].state == "ok"


def test_a_store_that_ignores_conditions_is_found_out() -> None:
    class Careless(MemoryStore):
        def put(self, *arguments: Any, instead_of: str | None = None, **named: Any) -> ObjectRef:  # noqa: ARG002
            return super().put(*arguments, **named)

    found = doctor._writable(Careless(), "processed")
    assert found.state == "failed"
    assert "in spite of If-None-Match" in found.found
    assert "conditional writes" in found.to_do
    assert doctor._writable(MemoryStore(), "processed").state == "ok"


@pytest.mark.parametrize(
    ("off", "state"), [(0, "ok"), (-3, "ok"), (30, "warning"), (-600, "failed"), (600, "failed")]
)
def test_a_clock_that_is_off(off: float, state: str) -> None:
    now = datetime.now(UTC)
    found = doctor._clock("a clock", now, now + timedelta(seconds=off), now)
    assert found.state == state
    assert ("NTP" in found.to_do) == (state != "ok")


@pytest.fixture
def listened(ledger: Ledger) -> Iterator[Ledger]:
    """A ledger with a listener that is alive."""
    ledger.watch.beat("one", "host 1")
    ledger.watch.report("one", "webhook", live=True)
    return ledger


@pytest.mark.parametrize(
    ("source", "state"), [("webhook", "ok"), ("stream", "ok"), ("sweep", "failed"), (None, "failed")]
)
def test_who_tells_of_an_object(
    source: Any,
    state: str,
    listened: Ledger,
    store: ObjectStore,
    datasets: Datasets,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "NOTIFIED_SECONDS", 1.0)
    stopped = threading.Event()

    def tell() -> None:
        while source and not stopped.is_set():
            listened.record([ObjectCreated(ref, source) for ref in store.list("raw")])
            time.sleep(0.02)

    thread = threading.Thread(target=tell)
    thread.start()
    found = doctor._notified(listened, store, datasets)
    stopped.set()
    thread.join()
    assert found.state == state
    assert not list(store.list("raw"))
    if state == "failed":
        assert "webhook" in found.to_do


def test_only_what_lies_below_the_prefixes_is_told_of(
    listened: Ledger, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Datasets({"churn": datasets["churn"]}, ("churn/",))

    class Telling(MemoryStore):
        def put(self, *arguments: Any, **named: Any) -> ObjectRef:
            ref = super().put(*arguments, **named)
            if part.covers(ref.key):
                listened.record([ObjectCreated(ref, "webhook")])
            return ref

    monkeypatch.setattr(doctor, "NOTIFIED_SECONDS", 0.5)
    store = Telling()
    assert doctor._notified(listened, store, part).state == "ok"
    assert not list(store.list("raw"))


def test_no_object_is_put_where_a_dataset_takes_all(listened: Ledger, datasets: Datasets) -> None:
    everything = datasets["churn"].model_copy(update={"match": "raw/churn/**"})
    for prefixes, folder in (
        (("churn/",), None),
        (("churn/", "iris/"), "iris/_doctor/"),
        (("",), "_doctor/"),
        (("iris/2026",), "iris/2026/_doctor/"),
    ):
        assert doctor._folder_of_none(Datasets({"churn": everything}, prefixes), "raw") == folder
    taken = Datasets({"churn": everything}, ("churn/",))
    assert doctor._notified(listened, MemoryStore(), taken).state == "left out"


def test_a_listener_that_does_not_run(ledger: Ledger) -> None:
    (found,) = doctor._listener(ledger)
    assert found.state == "failed"
    assert "dropflow listen" in found.to_do


def test_a_source_that_is_not_live_beside_one_that_is(listened: Ledger) -> None:
    listened.watch.report("one", "stream raw", live=False, detail="refused")
    assert [one.state for one in doctor._listener(listened)] == ["warning", "ok"]


@pytest.mark.parametrize(
    ("ago", "unaccounted", "interval", "seconds", "state"),
    [
        (None, 0, 30, 1, "warning"),
        (1, 0, 30, 1, "ok"),
        (1, 3, 30, 1, "failed"),
        (3600, 0, 30, 1, "failed"),
        (3 * 3600, 0, 30, 1800, "ok"),
        (6 * 3600, 0, 30, 1800, "failed"),
        (3700, 0, 3600, 1, "ok"),
        (3 * 3600, 0, 3600, 1, "failed"),
    ],
)
def test_what_the_last_sweep_found(
    ago: float | None,
    unaccounted: int,
    interval: float,
    seconds: float,
    state: str,
    settings: Settings,
    ledger: Ledger,
    tmp_path: Any,
) -> None:
    if ago is not None:
        report = SweepReport(
            started=datetime.now(UTC) - timedelta(seconds=ago),
            seconds=seconds,
            objects=9,
            receipts=9,
            new=0,
            settled=0,
            reopened=0,
            orphans=0,
            unaccounted=unaccounted,
        )
        ledger.watch.swept(report)
    generator = doctor._ledger(settings.model_copy(update={"data_dir": tmp_path, "sweep_seconds": interval}))
    assert next(generator).state == state


def test_the_command_tells_what_to_do_and_fails(tmp_path: Any) -> None:
    done = run("doctor", cwd=tmp_path)
    assert done.returncode == 1
    assert "DROPFLOW_S3_ENDPOINT" in done.stdout
    assert "docs/runbooks.md#store" in done.stdout
    assert "2 of 5 checks failed" in done.stdout
