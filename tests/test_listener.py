"""Ledger, intake, sweep and dispatcher together, against moto and a recording Prefect."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dropflow.datasets import Datasets, load_datasets
from dropflow.errors import PermanentError, TransientError
from dropflow.ledger import Fate, Ledger
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.receipts import Receipt, commit_receipt, receipt_key
from dropflow.settings import PROJECT
from dropflow.storage import ObjectStore
from listeners.dispatcher import Dispatcher
from listeners.intake import Intake
from listeners.sweep import Sweep


@dataclass
class Prefect:
    """Keeps the events it is given; raises `error` while it is set."""

    events: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None

    def post_events(self, events: list[dict[str, Any]]) -> None:
        if self.error:
            raise self.error
        self.events += events


@dataclass
class Listener:
    ledger: Ledger
    datasets: Datasets
    store: ObjectStore
    prefect: Prefect
    intake: Intake
    dispatcher: Dispatcher

    def see(self, *refs: ObjectRef) -> int:
        return asyncio.run(self.intake.record(ObjectCreated(ref, "webhook") for ref in refs))

    def sweep(self) -> int:
        return asyncio.run(Sweep(self.store, self.datasets.raw_buckets, self.intake, 60).once())

    def dispatch(self) -> None:
        while self.dispatcher.dispatch():
            pass

    def fate(self, key: str) -> tuple[Fate, str]:
        entry = self.ledger.find("raw", key)[0]
        return entry.fate, entry.reason


@pytest.fixture
def listener(ledger: Ledger, store: ObjectStore) -> Listener:
    datasets = load_datasets(PROJECT / "datasets")
    prefect, intake = Prefect(), Intake(ledger, datasets)
    dispatcher = Dispatcher(ledger, datasets, store, prefect, intake)  # type: ignore[arg-type]
    return Listener(ledger, datasets, store, prefect, intake, dispatcher)


def test_an_object_becomes_one_event_that_carries_references_only(listener: Listener) -> None:
    ref = listener.store.put("raw", "churn/fäil+name a&b.csv", b"secret content", "text/csv")
    assert listener.see(ref, ref) == 1
    assert listener.see(ref) == 0
    listener.dispatch()
    (event,) = listener.prefect.events
    assert event["event"] == "object.created"
    assert event["resource"]["prefect.resource.id"] == "dropflow.dataset.churn"
    assert [found["key"] for found in event["payload"]["objects"]] == [ref.key]
    assert "secret content" not in str(event)
    assert listener.fate(ref.key)[0] == Fate.DISPATCHED


def test_what_only_the_sweep_saw_is_dispatched_once(listener: Listener) -> None:
    for key in ("churn/a.csv", "churn/b.csv"):
        listener.store.put("raw", key, b"x", "text/csv")
    assert listener.sweep() == 2
    assert listener.sweep() == 0
    listener.dispatch()
    assert len(listener.prefect.events) == 2


def test_an_overwritten_object_is_a_new_object(listener: Listener) -> None:
    listener.store.put("raw", "churn/a.csv", b"1", "text/csv")
    assert listener.sweep() == 1
    listener.store.put("raw", "churn/a.csv", b"2", "text/csv")
    assert listener.sweep() == 1
    listener.dispatch()
    assert len(listener.prefect.events) == 2


def test_the_same_bytes_again_after_others_are_a_new_object(listener: Listener) -> None:
    for content in (b"A", b"B", b"A"):
        ref = listener.store.put("raw", "churn/a.csv", content, "text/csv")
        assert listener.see(ref) == 1
        assert listener.see(ref) == 0
        listener.dispatch()
        assert listener.fate("churn/a.csv")[0] == Fate.DISPATCHED
    assert len(listener.prefect.events) == 3
    assert listener.sweep() == 0


def test_a_receipt_whose_output_was_replaced_does_not_settle(listener: Listener) -> None:
    ref = listener.store.put("raw", "churn/a.csv", b"A", "text/csv")
    output = listener.store.put("processed", "churn/a.parquet", b"of A", "x/y")
    made = {"output_bucket": output.bucket, "output_key": output.key, "output_etag": output.etag}
    write_receipt(listener, ref, fate="processed", **made)
    listener.store.put("processed", "churn/a.parquet", b"of B", "x/y")
    listener.see(ref)
    listener.dispatch()
    assert len(listener.prefect.events) == 1


def test_one_missing_bucket_does_not_stop_the_sweep_of_others(listener: Listener) -> None:
    listener.store.put("raw", "churn/a.csv", b"x", "text/csv")
    sweep = Sweep(listener.store, ["aaa-missing", "raw"], listener.intake, 60)
    with pytest.raises(PermanentError, match="aaa-missing"):
        asyncio.run(sweep.once())
    assert listener.fate("churn/a.csv")[0] == Fate.PENDING


def test_a_store_in_trouble_leaves_objects_pending(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [ObjectRef("raw", f"churn/{number}.csv", "e") for number in range(3)]
    listener.see(*refs)

    def trouble(_store: object, _dataset: object, ref: ObjectRef, *_: object) -> None:
        if ref == refs[0]:
            raise TransientError("503 for this one")

    monkeypatch.setattr("listeners.dispatcher.standing_receipt", trouble)
    with pytest.raises(TransientError):
        listener.dispatch()
    assert listener.fate("churn/0.csv") == (Fate.PENDING, "503 for this one")
    assert {listener.fate(ref.key)[0] for ref in refs[1:]} == {Fate.DISPATCHED}


def test_what_was_ignored_is_looked_at_again_after_a_restart(listener: Listener) -> None:
    listener.see(ObjectRef("raw", "elsewhere/a.csv", "e"))
    listener.dispatch()
    assert listener.ledger.reopen(Fate.IGNORED, Fate.FAILED, Fate.REJECTED) == 1
    assert listener.fate("elsewhere/a.csv") == (Fate.PENDING, "")


def test_a_key_without_etag_is_resolved_by_the_store(listener: Listener) -> None:
    ref = listener.store.put("raw", "churn/a.csv", b"abc", "text/csv")
    listener.see(ObjectRef("raw", "churn/a.csv"))
    listener.sweep()
    listener.dispatch()
    (entry,) = listener.ledger.find("raw", "churn/a.csv")
    assert (entry.ref.etag, entry.ref.size) == (ref.etag, 3)
    assert len(listener.prefect.events) == 1


def test_a_key_that_is_gone_is_forgotten(listener: Listener) -> None:
    listener.see(ObjectRef("raw", "churn/gone.csv"))
    listener.dispatch()
    assert listener.ledger.find("raw", "churn/gone.csv") == []
    assert listener.prefect.events == []


def test_an_object_outside_every_dataset_is_ignored_with_a_reason(listener: Listener) -> None:
    listener.see(ObjectRef("raw", "elsewhere/a.csv", "e"))
    listener.dispatch()
    fate, reason = listener.fate("elsewhere/a.csv")
    assert fate == Fate.IGNORED
    assert "outside every dataset" in reason


def test_other_buckets_are_none_of_our_business(listener: Listener) -> None:
    assert listener.see(ObjectRef("processed", "churn/a.parquet", "e")) == 0


@pytest.mark.parametrize("error", [TransientError("down"), PermanentError("401")])
def test_nothing_is_lost_while_prefect_refuses(listener: Listener, error: Exception) -> None:
    listener.see(ObjectRef("raw", "churn/a.csv", "e"))
    listener.prefect.error = error
    with pytest.raises(type(error)):
        listener.dispatch()
    assert listener.fate("churn/a.csv")[0] == Fate.PENDING
    listener.prefect.error = None
    listener.dispatch()
    assert len(listener.prefect.events) == 1


def write_receipt(listener: Listener, ref: ObjectRef, **fields: Any) -> None:
    receipt = Receipt(
        dataset="churn", bucket=ref.bucket, key=ref.key, etag=ref.etag, fingerprint="f", **fields
    )
    commit_receipt(listener.store, listener.datasets["churn"], receipt, replace=False)


def test_a_receipt_settles_the_fate(listener: Listener) -> None:
    good, bad, late = (ObjectRef("raw", f"churn/{name}.csv", "e") for name in ("good", "bad", "late"))
    listener.see(good, bad, late)
    listener.dispatch()
    write_receipt(listener, good, fate="processed")
    write_receipt(listener, bad, fate="rejected", reason="is empty")
    listener.dispatcher.settle()
    assert listener.fate(good.key)[0] == Fate.PROCESSED
    assert listener.fate(bad.key) == (Fate.REJECTED, "is empty")
    assert listener.fate(late.key)[0] == Fate.DISPATCHED


def test_a_deleted_ledger_is_rebuilt_without_a_single_event(listener: Listener) -> None:
    ref = listener.store.put("raw", "churn/a.csv", b"x", "text/csv")
    write_receipt(listener, ref, fate="processed")
    listener.sweep()
    listener.dispatch()
    assert listener.fate("churn/a.csv")[0] == Fate.PROCESSED
    assert listener.prefect.events == []


def test_one_objects_trouble_does_not_hold_up_the_others(listener: Listener) -> None:
    broken, good = ObjectRef("raw", "churn/broken.csv", "e"), ObjectRef("raw", "churn/good.csv", "e")
    key = receipt_key(listener.datasets["churn"], broken, "f")
    listener.store.put("processed", key, b"{", "application/json")
    listener.see(broken, good)
    listener.dispatch()
    fate, reason = listener.fate(broken.key)
    assert fate == Fate.FAILED
    assert "is no receipt" in reason
    assert listener.fate(good.key)[0] == Fate.DISPATCHED


def test_objects_whose_run_never_ends_do_not_hide_the_others(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("listeners.dispatcher.BATCH", 2)
    refs = [ObjectRef("raw", f"churn/{number}.csv", "e") for number in range(5)]
    listener.see(*refs)
    listener.dispatch()
    write_receipt(listener, refs[4], fate="processed")
    for _ in range(3):
        listener.dispatcher.settle()
    assert listener.fate(refs[4].key)[0] == Fate.PROCESSED


def test_the_ledger_survives_a_restart(listener: Listener, tmp_path: Path) -> None:
    listener.see(ObjectRef("raw", "churn/ü.csv", "e", 3, "v1"))
    listener.ledger.close()
    again = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    (entry,) = again.with_fate(Fate.PENDING, 10)
    assert entry.ref == ObjectRef("raw", "churn/ü.csv", "e", 3, "v1")
    assert again.counts() == {"": {Fate.PENDING: 1}}
    again.close()


def test_the_ledger_commits_durably(listener: Listener) -> None:
    with listener.ledger._engine.connect() as db:
        assert db.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert db.execute(sa.text("PRAGMA synchronous")).scalar() == 2
