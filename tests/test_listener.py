"""Intake, ledger, dispatcher, settler and sweep together, against moto and a Prefect that only remembers."""

import asyncio
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from memory_store import MemoryStore
from rich.console import Console

from dropflow.audit import audit
from dropflow.datasets import Dataset, Datasets, Readiness
from dropflow.declarations import load_datasets
from dropflow.errors import AccessError, EventRefusedError, PermanentError, TransientError, UnforeseenError
from dropflow.ledger import Entry, Fate, Gather, Ledger, Settlement, SweepReport, outbox
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.prefect_api import Run
from dropflow.receipts import FINGERPRINT, SOURCE, Receipt, commit_receipt, receipt_key
from dropflow.settings import PROJECT
from dropflow.status import read_status, render
from dropflow.storage import ObjectStore
from listeners import dispatcher as dispatching
from listeners import paused as pausing
from listeners import settler as settling
from listeners.dispatcher import Dispatcher
from listeners.intake import Intake
from listeners.settler import Patience, Settler
from listeners.sweep import Sweep

AT_ONCE = Patience(receipt=timedelta(0), run=timedelta(hours=1), deliveries=3)


@dataclass
class Prefect:
    """Keeps the events it is given, tells of the runs it is told to; raises `error` while it is set."""

    events: list[dict[str, Any]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    error: Exception | None = None
    paused_datasets: set[str] = field(default_factory=set)
    asked: int = 0

    def paused(self) -> frozenset[str]:
        self.asked += 1
        if self.error:
            raise self.error
        return frozenset(self.paused_datasets)

    def post_events(self, events: list[dict[str, Any]]) -> None:
        if self.error:
            raise self.error
        self.events += events

    def runs_of(self, _dataset: str, _since: datetime) -> list[Run]:
        if self.error:
            raise self.error
        return self.runs

    def run(self, *keys: str, kind: str = "RUNNING", state: str = "", message: str = "") -> None:
        now = datetime.now(UTC)
        self.runs = [
            Run(f"run-{len(self.events)}", frozenset(keys), kind, state or kind.title(), message, now, now)
        ]

    def batches(self) -> list[list[str]]:
        return [[found["key"] for found in event["payload"]["objects"]] for event in self.events]


@dataclass
class Listener:
    ledger: Ledger
    datasets: Datasets
    store: ObjectStore
    prefect: Prefect
    dispatcher: Dispatcher
    settler: Settler
    sweeper: Sweep
    orphans: list[str]

    @property
    def failed(self) -> list[tuple[str, str]]:
        """What is to be told as given up for, with the reason."""
        groups = [group for group in self.ledger.notices.untold() if group.kind == "failure"]
        found = [notice for group in groups for notice in self.ledger.notices.examples(group, 100)]
        return [(notice.ref.key, notice.reason) for notice in found]

    def see(self, *refs: ObjectRef) -> int:
        return self.ledger.record(ObjectCreated(ref, "webhook") for ref in refs)

    def sweep(self) -> SweepReport:
        report = self.sweeper.once()
        assert report is not None
        return report

    def put(self, key: str, content: bytes = b"x", bucket: str = "raw") -> ObjectRef:
        return self.store.put(bucket, key, content, "text/csv")

    def entry(self, key: str) -> Entry:
        return self.ledger.find("raw", key)[0]

    def fate(self, key: str) -> tuple[Fate, str]:
        entry = self.entry(key)
        return entry.fate, entry.reason

    def receipt(self, ref: ObjectRef, *, force: bool = False, **fields: Any) -> Receipt:
        place = {"dataset": "churn", "bucket": ref.bucket, "key": ref.key, "etag": ref.etag}
        receipt = Receipt(**{**place, "fingerprint": "f", "fate": "processed", **fields})
        assert commit_receipt(self.store, self.datasets["churn"], receipt, force=force)
        return receipt

    def output(self, ref: ObjectRef, content: bytes) -> dict[str, str]:
        """Write the object's output; the receipt's fields that tell of it."""
        key = self.datasets["churn"].output_key(ref.key)
        metadata = {SOURCE: ref.etag, FINGERPRINT: "f"}
        made = self.store.put("processed", key, content, "x/y", metadata=metadata)
        return {"output_bucket": "processed", "output_key": key, "output_etag": made.etag}


def make_listener(ledger: Ledger, store: Any, datasets: Datasets, **options: Any) -> Listener:
    prefect = Prefect()
    orphans: list[str] = []

    settler = Settler(
        ledger,
        datasets,
        store,
        prefect,  # type: ignore[arg-type]
        patience=options.pop("patience", AT_ONCE),
    )
    dispatcher = Dispatcher(
        ledger,
        datasets,
        store,
        prefect,  # type: ignore[arg-type]
        listener="me",
        receipt_seconds=0,
        **options,
    )
    sweep = Sweep(
        ledger,
        datasets,
        store,
        settler,
        listener="me",
        orphan_seconds=0,
        orphan_found=lambda _dataset, ref: orphans.append(ref.key),
    )
    return Listener(ledger, datasets, store, prefect, dispatcher, settler, sweep, orphans)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "FIRST_LOOK", 0)
    monkeypatch.setattr(dispatching, "PER_OBJECT", 0)
    monkeypatch.setattr(settling, "LOOK_AGAIN", timedelta(0))
    monkeypatch.setattr(settling, "LOOK_AGAIN_EACH", timedelta(0))
    monkeypatch.setattr(settling, "BACKOFF", (0,))
    monkeypatch.setattr(dispatching, "REFUSED_WAIT", 0)
    monkeypatch.setattr(pausing, "ASK_AGAIN", 0)


@pytest.fixture
def listener(ledger: Ledger, store: ObjectStore) -> Listener:
    return make_listener(ledger, store, load_datasets(PROJECT / "datasets"))


def with_readiness(ledger: Ledger, store: ObjectStore, **readiness: Any) -> Listener:
    churn = load_datasets(PROJECT / "datasets")["churn"].model_copy(update={"ready": Readiness(**readiness)})
    return make_listener(ledger, store, Datasets({"churn": churn}))


def test_an_object_becomes_one_event_that_carries_references_only(listener: Listener) -> None:
    ref = listener.put("churn/fäil+name a&b.csv", b"secret content")
    assert listener.see(ref, ref) == 1
    assert listener.see(ref) == 0
    assert listener.dispatcher.dispatch() == 1
    (event,) = listener.prefect.events
    assert event["event"] == "object.created"
    assert event["resource"]["prefect.resource.id"] == "dropflow.dataset.churn"
    assert event["payload"]["objects"][0]["key"] == ref.key
    assert event["payload"]["force"] is False
    assert "secret content" not in str(event)
    assert listener.fate(ref.key)[0] == Fate.DISPATCHED
    assert listener.dispatcher.dispatch() == 0


def test_what_only_the_sweep_saw_is_dispatched_once(listener: Listener) -> None:
    for key in ("churn/a.csv", "churn/b.csv"):
        listener.put(key)
    assert listener.sweep().new == 2
    assert listener.sweep().new == 0
    listener.dispatcher.dispatch()
    assert listener.prefect.batches() == [["churn/a.csv", "churn/b.csv"]]


def test_while_runs_are_in_flight_arrivals_gather_into_one_event(ledger: Ledger, store: ObjectStore) -> None:
    listener = make_listener(ledger, store, load_datasets(PROJECT / "datasets"), runs_per_dataset=2)
    refs = [listener.put(f"churn/{number}.csv", b"%d" % number) for number in range(6)]
    for ref in refs:
        listener.see(ref)
        listener.dispatcher.dispatch()
    assert listener.prefect.batches() == [["churn/0.csv"], ["churn/1.csv"]]
    listener.receipt(refs[0])
    listener.prefect.run("churn/1.csv")
    listener.settler.look()
    listener.dispatcher.dispatch()
    assert listener.prefect.batches()[2:] == [[ref.key for ref in refs[2:]]]


NONE, LONG = timedelta(0), timedelta(hours=1)
ANY = Gather(many=1, lately=LONG, quiet=NONE, few=9, longest=LONG)


@pytest.mark.parametrize(
    ("gather", "batches"),
    [
        (ANY._replace(quiet=LONG), 1),  # others may still be coming
        (ANY._replace(few=0), 1),  # the cores are busy
        (ANY, 3),  # none comes, and few are left at work
        (ANY._replace(many=9), 1),  # too few for a run beside one that ends soon
        (ANY._replace(many=9, lately=NONE), 3),  # or will not
        (ANY._replace(quiet=LONG, few=0, longest=NONE), 3),  # enough is enough
        (ANY._replace(quiet=LONG, few=0, machines=3), 3),  # others have cores, too
        (None, 3),
    ],
)
def test_while_a_run_is_at_work_objects_wait_for_others_and_for_its_end(
    ledger: Ledger, store: ObjectStore, gather: Gather | None, batches: int
) -> None:
    listener = make_listener(ledger, store, load_datasets(PROJECT / "datasets"), gather=gather)
    refs = [listener.put(f"churn/{number}.csv", b"%d" % number) for number in range(3)]
    for ref in refs:
        listener.see(ref)
        listener.dispatcher.dispatch()
    assert len(listener.prefect.batches()) == batches
    listener.dispatcher.dispatch()
    assert listener.dispatcher.gathers == (batches < 3)
    if batches == 1:
        listener.receipt(refs[0])
        listener.settler.look()
        listener.dispatcher.dispatch()
        assert listener.prefect.batches()[1:] == [[ref.key for ref in refs[1:]]], (
            "nothing is at work any more"
        )


def test_an_overwritten_object_is_a_new_object(listener: Listener) -> None:
    listener.put("churn/a.csv", b"1")
    assert listener.sweep().new == 1
    listener.put("churn/a.csv", b"2")
    assert listener.sweep().new == 1


def test_the_same_bytes_again_after_others_are_a_new_object(listener: Listener) -> None:
    for content in (b"A", b"B", b"A"):
        ref = listener.put("churn/a.csv", content)
        assert listener.see(ref) == 1
        assert listener.see(ref) == 0
        listener.dispatcher.dispatch()
        listener.receipt(ref, force=True, **listener.output(ref, content + b"'"))
        listener.settler.look()
        assert listener.fate("churn/a.csv")[0] == Fate.PROCESSED
    assert len(listener.prefect.events) == 3
    assert listener.sweep().new == 0


def test_a_late_notification_of_bytes_that_are_gone_changes_nothing(listener: Listener) -> None:
    first = listener.put("churn/a.csv", b"A")
    listener.receipt(first)
    second = listener.put("churn/a.csv", b"B")
    listener.receipt(second)
    for ref in (first, second):
        listener.see(ref)
    listener.dispatcher.dispatch()
    while listener.settler.look():
        pass
    posted = len(listener.prefect.events)
    assert listener.see(first) == 1, "other bytes were seen since: only the store knows"
    listener.dispatcher.dispatch()
    listener.settler.look()
    assert len(listener.prefect.events) == posted
    assert listener.ledger.lookup("raw", [first.key])[first.key, first.etag].fate == Fate.PROCESSED


def test_a_notification_that_is_repeated_tells_of_the_same_write(listener: Listener) -> None:
    first = listener.put("churn/a.csv", b"A")
    told = replace(first, modified=datetime.now(UTC))
    listener.see(told)
    listener.dispatcher.dispatch()
    listener.receipt(first)
    listener.settler.look()
    listener.see(replace(listener.put("churn/a.csv", b"B"), modified=datetime.now(UTC)))
    assert listener.see(told) == 0
    assert listener.see(replace(told, modified=datetime.now(UTC))) == 1


def test_bytes_that_are_told_of_again_before_they_are_visible_are_prepared(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = settled_twice(listener)
    listener.put("churn/a.csv", b"B")
    listener.see(replace(ref, modified=datetime.now(UTC) + timedelta(seconds=1)))
    listener.dispatcher.dispatch()
    assert listener.fate(ref.key) == (Fate.DISPATCHED, "seen again, but not there")
    listener.put("churn/a.csv", b"A")
    monkeypatch.setattr(settling, "BACKOFF", (0,))
    listener.settler.look()
    listener.dispatcher.dispatch()
    assert listener.prefect.batches() == [[ref.key]]


def settled_twice(listener: Listener) -> ObjectRef:
    """A file whose bytes A are back after B; both were prepared, the output is B's."""
    first = listener.put("churn/a.csv", b"A")
    listener.receipt(first, **listener.output(first, b"of A"))
    listener.sweep()
    second = listener.put("churn/a.csv", b"B")
    listener.receipt(second, **listener.output(second, b"of B"))
    listener.sweep()
    listener.put("churn/a.csv", b"A")
    return first


def test_an_old_receipt_never_settles_bytes_that_are_back(listener: Listener) -> None:
    ref = settled_twice(listener)
    key = receipt_key(listener.datasets["churn"], ref, "f")
    for _ in range(2):
        listener.sweep()
        listener.settler.read([("processed", key)])
        assert listener.ledger.lookup("raw", [ref.key])[ref.key, ref.etag].fate == Fate.PENDING
    listener.dispatcher.dispatch()
    assert [ref.key] in listener.prefect.batches()
    listener.sweep()
    listener.settler.read([("processed", key)])
    assert listener.ledger.lookup("raw", [ref.key])[ref.key, ref.etag].fate == Fate.DISPATCHED


def test_an_output_that_vanished_is_made_again(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    made = listener.output(ref, b"prepared")
    listener.receipt(ref, **made)
    listener.sweep()
    assert audit(listener.store, listener.datasets, listener.ledger).clean
    listener.store.delete("processed", made["output_key"])
    proof = audit(listener.store, listener.datasets, listener.ledger)
    assert (proof.without_output, proof.objects_without_output) == (1, [ref.url])
    assert listener.sweep().reopened == 1
    assert listener.fate(ref.key) == (Fate.PENDING, "its receipt or output is gone")


def test_an_audit_names_what_is_unaccounted_and_what_is_an_orphan(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    made = listener.output(ref, b"left behind")
    proof = audit(listener.store, listener.datasets, listener.ledger)
    assert proof.unaccounted_objects == [ref.url]
    assert proof.orphan_outputs == [f"s3://processed/{made['output_key']}"]
    assert not proof.clean
    assert audit(listener.store, listener.datasets, listener.ledger, orphan_seconds=60).orphans == 0


def test_one_object_the_store_refuses_stops_no_other(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = listener.put("churn/bad.csv", b"1"), listener.put("churn/good.csv", b"2")
    listener.see(bad, good)
    listener.dispatcher.dispatch()
    listener.receipt(good)
    stat = ObjectStore.stat

    def refuse(store: ObjectStore, bucket: str, key: str) -> ObjectRef:
        if key == bad.key:
            raise PermanentError("403")
        return stat(store, bucket, key)

    monkeypatch.setattr(ObjectStore, "stat", refuse)
    listener.prefect.run(bad.key, kind="FAILED", message="403")
    listener.settler.look()
    assert listener.fate(good.key)[0] == Fate.PROCESSED
    assert listener.fate(bad.key) == (Fate.FAILED, "403")
    assert listener.failed == [(bad.key, "403")]
    listener.see(ObjectRef("raw", bad.key), listener.put("churn/next.csv", b"3"))
    listener.dispatcher.dispatch()
    assert listener.fate("churn/next.csv")[0] == Fate.DISPATCHED
    assert listener.fate(bad.key) == (Fate.FAILED, "403")


def test_an_event_that_prefect_refuses_blocks_no_other(listener: Listener) -> None:
    refs = [listener.put(f"churn/{number}.csv", b"%d" % number) for number in range(120)]
    listener.see(*refs)
    post = listener.prefect.post_events

    def refuse(events: list[dict[str, Any]]) -> None:
        if any(found["key"] == refs[7].key for event in events for found in event["payload"]["objects"]):
            raise EventRefusedError("422")
        post(events)

    listener.prefect.post_events = refuse  # type: ignore[method-assign]
    for _ in range(30):
        listener.dispatcher.dispatch()
        listener.prefect.run(*(ref.key for ref in refs))
        listener.settler.look()
        for ref in refs:
            if listener.entry(ref.key).fate is Fate.DISPATCHED:
                listener.receipt(ref, force=True)
        listener.settler.look()
    assert listener.fate(refs[7].key) == (Fate.FAILED, "422")
    assert listener.ledger.counts()["churn"] == {Fate.FAILED: 1, Fate.PROCESSED: 119}
    assert listener.failed == [(refs[7].key, "422")]


def test_a_refused_event_keeps_its_objects_when_the_ledger_fails_meanwhile(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [listener.put(f"churn/{name}.csv", name.encode()) for name in "ab"]
    listener.see(*refs)
    listener.prefect.error = EventRefusedError("422")

    def fail(*_: object) -> None:
        raise TransientError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(outbox, "redeliver", fail)
        with pytest.raises(TransientError):
            listener.dispatcher.dispatch()
    listener.prefect.error = None
    listener.dispatcher.dispatch()
    assert sorted(listener.prefect.batches()[0]) == sorted(ref.key for ref in refs)


def test_a_key_that_goes_on_where_another_ends_has_receipts_of_its_own(
    ledger: Ledger, churn: Dataset
) -> None:
    store: Any = MemoryStore()
    listener = make_listener(ledger, store, Datasets({"churn": churn}))
    ref = listener.put("churn/a.csv", b"A")
    other = listener.put(f"churn/a.csv/{ref.etag}.x.csv", b"B")
    listener.receipt(other)
    listener.see(ref, other)
    listener.dispatcher.dispatch()
    listener.settler.look()
    assert listener.fate(other.key)[0] == Fate.PROCESSED
    assert listener.fate(ref.key)[0] != Fate.PROCESSED


def test_a_receipt_that_comes_while_prefect_is_asked_wins(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.see(ref)
    listener.dispatcher.dispatch()

    def runs_of(_dataset: str, _since: datetime) -> list[Run]:
        listener.receipt(ref)
        listener.settler.read([("processed", receipt_key(listener.datasets["churn"], ref, "f"))])
        now = datetime.now(UTC)
        return [Run("r", frozenset([ref.key]), "FAILED", "Failed", "too late", now, now)]

    listener.prefect.runs_of = runs_of  # type: ignore[method-assign]
    listener.settler.look()
    assert listener.fate(ref.key)[0] == Fate.PROCESSED
    assert listener.failed == []


def test_what_is_ignored_is_matched_when_a_dataset_takes_it(listener: Listener) -> None:
    listener.see(listener.put("elsewhere/a.csv"))
    listener.dispatcher.dispatch()
    assert listener.fate("elsewhere/a.csv")[0] == Fate.IGNORED
    declared = listener.datasets["churn"].model_dump(exclude_unset=True)
    other = Dataset.model_validate({**declared, "name": "other", "match": "raw/elsewhere/*.csv"})
    newer = make_listener(listener.ledger, listener.store, Datasets({"other": other}))
    assert newer.sweep().reopened == 1
    newer.dispatcher.dispatch()
    assert newer.prefect.batches() == [["elsewhere/a.csv"]]


def test_an_object_deleted_and_dropped_again_is_prepared(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.see(ref)
    listener.dispatcher.dispatch()
    listener.store.delete("raw", ref.key)
    listener.settler.look()
    assert listener.fate(ref.key) == (Fate.IGNORED, "overwritten or deleted before it was prepared")
    listener.put("churn/a.csv")
    report = listener.sweep()
    assert report.new + report.reopened == 1
    listener.dispatcher.dispatch()
    assert len(listener.prefect.events) == 2


def test_a_receipt_whose_output_was_replaced_does_not_settle(listener: Listener) -> None:
    ref = listener.put("churn/a.csv", b"A")
    listener.receipt(ref, **listener.output(ref, b"of A"))
    listener.put("churn/a.parquet", b"of B", "processed")
    listener.sweep()
    listener.dispatcher.dispatch()
    listener.settler.look()
    assert listener.fate(ref.key)[0] in (Fate.DISPATCHED, Fate.PENDING)
    assert len(listener.prefect.events) == 1


def test_one_missing_bucket_does_not_stop_the_sweep_of_others(listener: Listener) -> None:
    listener.put("churn/a.csv")
    churn = listener.datasets["churn"]
    other = churn.model_copy(update={"name": "other", "match": "aaa-missing/*.csv"})
    datasets = Datasets({"churn": churn, "other": other})
    sweep = Sweep(listener.ledger, datasets, listener.store, listener.settler, listener="me")
    report = sweep.once()
    assert report
    assert report.unswept.startswith(
        "aaa-missing: list s3://aaa-missing/: the store answered 404 NoSuchBucket"
    )
    assert listener.fate("churn/a.csv")[0] == Fate.PENDING


def test_one_missing_output_bucket_does_not_stop_the_sweep_of_others_and_is_told(listener: Listener) -> None:
    churn = listener.datasets["churn"]
    other = churn.model_copy(
        update={"name": "other", "match": "raw/other/*.csv", "output_bucket": "aaa-missing"}
    )
    datasets = Datasets({"other": other, "churn": churn})
    ours, theirs = listener.put("churn/a.csv"), listener.put("other/known.csv")
    listener.see(theirs)
    listener.ledger.settle(
        [
            Settlement(
                theirs, "other", Fate.PROCESSED, "", datetime.now(UTC), "aaa-missing", "other/known.parquet"
            )
        ]
    )
    listener.put("other/new.csv")
    sweep = Sweep(listener.ledger, datasets, listener.store, listener.settler, listener="me")
    for _ in range(3):
        report = sweep.once()
        assert report
        assert (report.unaccounted, report.unswept[:12]) == (0, "aaa-missing:")
    assert listener.fate(ours.key)[0] == Fate.PENDING
    assert listener.fate(theirs.key)[0] == Fate.PROCESSED, "nobody could look for its receipt"
    assert listener.ledger.find("raw", "other/new.csv") == [], "nothing can be said of it"
    status = read_status(listener.ledger)
    assert status.unaccounted is None
    shown = io.StringIO()
    Console(file=shown, width=300).print(render(status))
    assert "unaccounted  unknown: not all buckets could be swept" in shown.getvalue()
    assert "not swept  aaa-missing: list s3://aaa-missing/" in shown.getvalue()
    (told,) = (group for group in listener.ledger.notices.untold() if group.kind == "waiting")
    assert (told.dataset, told.number) == ("other", 1), "once, while it goes on"
    listener.store.ensure_bucket("aaa-missing")
    report = sweep.once()
    assert report
    assert report.unswept == ""
    assert listener.fate("other/new.csv")[0] == Fate.PENDING
    assert read_status(listener.ledger).unaccounted == 0


def test_where_no_bucket_can_be_swept_the_sweep_fails(ledger: Ledger) -> None:
    store = MemoryStore()
    store.buckets.clear()
    listener = make_listener(ledger, store, load_datasets(PROJECT / "datasets"))
    with pytest.raises(UnforeseenError, match="KeyError"):
        listener.sweep()
    assert ledger.watch.last_sweep() is None


def test_a_store_in_trouble_leaves_objects_pending_and_lets_others_leave(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = [ObjectRef("raw", f"churn/{number}.csv") for number in range(3)]
    listener.see(*unknown, ObjectRef("raw", "churn/known.csv", "e"))

    def trouble(_dispatcher: object, _ref: ObjectRef) -> None:
        raise TransientError("503")

    monkeypatch.setattr(Dispatcher, "_find", trouble)
    for _ in range(2):
        with pytest.raises(TransientError):
            listener.dispatcher.dispatch()
    assert {listener.fate(ref.key) for ref in unknown} == {(Fate.PENDING, "503")}
    assert listener.fate("churn/known.csv")[0] == Fate.DISPATCHED


def test_keys_that_the_store_refuses_are_no_fault_of_the_objects(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of one that is yet to leave, nor of one whose receipt cannot be looked for."""
    waiting, sent = listener.put("churn/waiting.csv", b"1"), listener.put("churn/sent.csv", b"2")
    listener.see(sent)
    listener.dispatcher.dispatch()
    listener.see(ObjectRef("raw", waiting.key))
    listener.prefect.run(sent.key, kind="COMPLETED")

    def refused(_store: object, _bucket: str, _key: str) -> ObjectRef:
        raise AccessError("the store answered 403")

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "stat", refused)
        for _ in range(4):
            with pytest.raises(AccessError):
                listener.dispatcher.dispatch()
            listener.settler.look()
    assert listener.fate(waiting.key) == (Fate.PENDING, "the store answered 403")
    assert listener.fate(sent.key)[0] == Fate.DISPATCHED
    assert len(listener.prefect.events) == 1
    listener.receipt(sent)
    listener.settler.look()
    assert listener.fate(sent.key)[0] == Fate.PROCESSED


def test_a_key_without_etag_is_resolved_by_the_store(listener: Listener) -> None:
    ref = listener.put("churn/a.csv", b"abc")
    listener.see(ObjectRef("raw", "churn/a.csv"))
    listener.sweep()
    listener.dispatcher.dispatch()
    (entry,) = listener.ledger.find("raw", "churn/a.csv")
    assert (entry.ref.etag, entry.ref.size) == (ref.etag, 3)
    assert len(listener.prefect.events) == 1


class Sparing(MemoryStore):
    """A store that tells the ETag of no object in a listing, and of those with `bare` in their key never."""

    def stat(self, bucket: str, key: str) -> ObjectRef:
        if "bare" in key:
            raise PermanentError(f"s3://{bucket}/{key}: the store tells no ETag of it")
        return super().stat(bucket, key)

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectRef]:
        return (replace(ref, etag="") for ref in super().list(bucket, prefix))


def test_an_object_whose_etag_is_never_told_fails_once_and_keeps_no_other_up(ledger: Ledger) -> None:
    listener = make_listener(ledger, Sparing(), load_datasets(PROJECT / "datasets"))
    bare, good = listener.put("churn/bare.csv"), listener.put("churn/good.csv")
    for _ in range(3):
        listener.sweep()
        listener.dispatcher.dispatch()
        assert listener.ledger.unmatched(9) == []
    reason = "s3://raw/churn/bare.csv: the store tells no ETag of it"
    assert listener.fate(bare.key) == (Fate.FAILED, reason)
    assert listener.failed == [(bare.key, reason)]
    assert listener.prefect.batches() == [[good.key]]
    listener.receipt(good)
    listener.settler.look()
    listener.sweep()
    listener.dispatcher.dispatch()
    (entry,) = listener.ledger.find("raw", good.key)
    assert (entry.ref.etag, entry.fate) == (good.etag, Fate.PROCESSED)


def test_a_run_that_hears_of_no_etag_has_its_object_failed_once(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = listener.put("churn/bare.csv")
    listener.sweep()
    listener.dispatcher.dispatch()
    reason = f"{ref.url}: the store tells no ETag of it"

    def untold(*_: str) -> ObjectRef:
        raise PermanentError(reason)

    monkeypatch.setattr(ObjectStore, "stat", untold)
    listener.prefect.run(ref.key, kind="FAILED", message=reason)
    for _ in range(2):
        listener.settler.look()
        listener.sweep()
        listener.dispatcher.dispatch()
    assert listener.fate(ref.key) == (Fate.FAILED, reason)
    assert len(listener.prefect.events) == 1


def test_a_key_that_is_gone_is_forgotten(listener: Listener) -> None:
    listener.see(ObjectRef("raw", "churn/gone.csv"))
    listener.dispatcher.dispatch()
    assert listener.ledger.find("raw", "churn/gone.csv") == []
    assert listener.prefect.events == []


def test_an_object_outside_every_dataset_is_ignored_with_a_reason(listener: Listener) -> None:
    listener.see(ObjectRef("raw", "elsewhere/a.csv", "e"))
    listener.dispatcher.dispatch()
    fate, reason = listener.fate("elsewhere/a.csv")
    assert fate == Fate.IGNORED
    assert "outside every dataset" in reason
    listener.ledger.rematch()
    assert listener.fate("elsewhere/a.csv") == (Fate.PENDING, "")


def test_intake_records_watched_buckets_and_hears_of_receipts(listener: Listener) -> None:
    intake = Intake(listener.ledger, listener.datasets)
    refs = [
        ObjectRef("raw", "churn/a.csv", "e"),
        ObjectRef("raw", "churn/", "e"),
        ObjectRef("elsewhere", "churn/a.csv", "e"),
        ObjectRef("processed", "churn/a.parquet", "e"),
        ObjectRef("processed", "_receipts/churn/churn/a.csv/e.f.json", "e"),
    ]
    asyncio.run(intake.record(ObjectCreated(ref, "webhook") for ref in refs))
    assert listener.ledger.counts() == {"": {Fate.PENDING: 1}}
    assert list(intake.receipts) == [("processed", "_receipts/churn/churn/a.csv/e.f.json")]
    assert intake.arrived.is_set()
    assert intake.told.is_set()


@pytest.mark.parametrize("error", [TransientError("down"), PermanentError("401")])
def test_nothing_is_lost_while_prefect_refuses(listener: Listener, error: Exception) -> None:
    listener.see(ObjectRef("raw", "churn/a.csv", "e"))
    listener.prefect.error = error
    for _ in range(3):
        with pytest.raises(type(error)):
            listener.dispatcher.dispatch()
    listener.prefect.error = None
    listener.dispatcher.dispatch()
    assert len(listener.prefect.events) == 1


def test_an_event_posted_twice_has_one_id(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    listener.see(ObjectRef("raw", "churn/a.csv", "e"))

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(listener.ledger.outbox), "posted", dies)
        with pytest.raises(KeyboardInterrupt):
            listener.dispatcher.dispatch()
    listener.dispatcher.dispatch()
    first, second = listener.prefect.events
    assert first["id"] == second["id"]
    assert first["payload"] == second["payload"]


def test_a_told_receipt_settles_the_fate(listener: Listener) -> None:
    good, bad, late = (listener.put(f"churn/{name}.csv", name.encode()) for name in ("good", "bad", "late"))
    listener.see(good, bad, late)
    listener.dispatcher.dispatch()
    listener.receipt(good, rows_in=3, rows_out=2)
    listener.receipt(bad, fate="rejected", reason="is empty")
    churn = listener.datasets["churn"]
    told = [("processed", receipt_key(churn, ref, "f")) for ref in (good, bad, late)]
    assert listener.settler.read(told) == 2
    assert listener.fate(good.key) == (Fate.PROCESSED, "3 rows in, 2 out")
    assert listener.fate(bad.key) == (Fate.REJECTED, "is empty")
    assert listener.fate(late.key)[0] == Fate.DISPATCHED


def test_a_receipt_nobody_told_of_is_found_by_looking(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.see(ref)
    listener.dispatcher.dispatch()
    listener.receipt(ref)
    listener.settler.look()
    assert listener.fate(ref.key)[0] == Fate.PROCESSED


def test_silence_is_followed_by_a_question_and_by_redelivery(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.see(ref)
    for delivery in (1, 2, 3):
        listener.dispatcher.dispatch()
        assert len(listener.prefect.events) == delivery
        listener.settler.look()
    assert len({event["id"] for event in listener.prefect.events}) == 3
    fate, reason = listener.fate(ref.key)
    assert fate == Fate.FAILED
    assert "3 deliveries, and no run came of the last" in reason
    assert listener.failed == [(ref.key, reason)]
    story = [what for _, what in listener.ledger.story(listener.entry(ref.key))]
    assert [line.partition(":")[0] for line in story] == [
        "delivery 1",
        "to be delivered again",
        "delivery 2",
        "to be delivered again",
        "delivery 3",
        "failed",
    ]


def test_a_run_at_work_is_waited_for(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.see(ref)
    listener.dispatcher.dispatch()
    for state in ("SCHEDULED", "PENDING", "RUNNING"):
        listener.prefect.run(ref.key, kind=state)
        listener.settler.look()
        assert listener.fate(ref.key)[0] == Fate.DISPATCHED
        assert listener.fate(ref.key)[1].startswith("waits for run run-1")
    listener.prefect.run(ref.key, kind="CRASHED", message="killed")
    listener.settler.look()
    assert listener.fate(ref.key) == (Fate.PENDING, "run run-1 ended as Crashed")


def test_a_run_that_was_left_running_is_not_believed_for_ever(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.see(ref)
    listener.dispatcher.dispatch()
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    listener.prefect.runs = [Run("r", frozenset([ref.key]), "RUNNING", "Running", "", long_ago, long_ago)]
    listener.settler.look()
    assert listener.fate(ref.key)[0] == Fate.PENDING


def test_a_permanent_failure_is_not_tried_again(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.see(ref)
    listener.dispatcher.dispatch()
    listener.prefect.run(ref.key, kind="FAILED", message="KeyError: 'x'")
    listener.settler.look()
    assert listener.fate(ref.key) == (Fate.FAILED, "KeyError: 'x'")
    assert len(listener.prefect.events) == 1


@pytest.mark.parametrize("state", ["OutOfMemory", "TimedOut", "TooManyProcesses"])
def test_an_object_alone_that_takes_too_much_is_not_tried_again(listener: Listener, state: str) -> None:
    alone, first, second = (listener.put(f"churn/{name}.csv", name.encode()) for name in "abc")
    now = datetime.now(UTC)

    def ends(*refs: ObjectRef) -> None:
        listener.see(*refs)
        listener.dispatcher.dispatch()
        keys = frozenset(ref.key for ref in refs)
        listener.prefect.runs = [Run("r", keys, "CRASHED", state, "took more than 9 MiB", now, now)]
        listener.settler.look()

    ends(alone)
    assert listener.fate(alone.key) == (Fate.FAILED, "took more than 9 MiB")
    # Which of two it was is not known: they leave again.
    ends(first, second)
    assert listener.fate(first.key) == listener.fate(second.key) == (Fate.PENDING, f"run r ended as {state}")


def test_an_object_whose_run_was_evicted_is_tried_again_and_not_for_ever(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.see(ref)
    for number in range(AT_ONCE.deliveries):
        listener.dispatcher.dispatch()
        listener.prefect.run(
            ref.key, kind="CRASHED", state="Evicted", message="took 9 MiB, the most of 2 runs"
        )
        listener.settler.look()
        assert len(listener.prefect.events) == number + 1
    fate, reason = listener.fate(ref.key)
    assert (fate, "ended as Evicted: took 9 MiB, the most of 2 runs" in reason) == (Fate.FAILED, True)


@pytest.mark.parametrize(("fewest", "sizes"), [(200, [160]), (25, [40, 30, 25, 25])])
def test_as_many_runs_as_may_be_at_work_share_what_waits(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, fewest: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(outbox, "FEWEST", fewest)
    listener.see(*(listener.put(f"churn/{number}.csv", b"%d" % number) for number in range(160)))
    listener.dispatcher.dispatch()
    assert [len(keys) for keys in listener.prefect.batches()] == sizes


def test_what_fails_in_company_is_delivered_alone_in_the_end(listener: Listener) -> None:
    refs = [listener.put(f"churn/{number}.csv", b"%d" % number) for number in range(150)]
    first = refs[0].key
    listener.see(*refs)
    sizes = []
    for _ in range(3):
        listener.dispatcher.dispatch()
        sizes.append(next(len(keys) for keys in reversed(listener.prefect.batches()) if first in keys))
        listener.prefect.run(*(ref.key for ref in refs), kind="CRASHED")
        while any(listener.entry(ref.key).fate is Fate.DISPATCHED for ref in refs):
            listener.settler.look()
    # All that wait; of the second ones at most 100, of the third at most 10.
    assert sizes == [150, 100, 10]


def test_what_waits_for_the_store_is_told_once_and_never_given_up(listener: Listener) -> None:
    """Its runs are interrupted: after as many as would be the last it is told, and all leave together."""
    refs = [listener.put(f"churn/{number}.csv", b"%d" % number) for number in range(12)]
    keys = [ref.key for ref in refs]
    listener.see(*refs)
    message = f"12 interrupted\ns3://raw/{keys[0]} the store answered 403"
    for delivery in range(1, 6):
        listener.dispatcher.dispatch()
        assert len(listener.prefect.events) == delivery
        listener.prefect.run(*keys, kind="FAILED", state="Interrupted", message=message)
        listener.settler.look()
    assert {len(batch) for batch in listener.prefect.batches()} == {12}
    fate, reason = listener.fate(keys[0])
    assert fate is Fate.PENDING
    assert reason == f"interrupted in run run-5: s3://raw/{keys[0]} the store answered 403"
    (told,) = listener.ledger.notices.untold()
    assert (told.kind, told.number) == ("waiting", 12)
    listener.ledger.notices.compose(told, [], str)
    listener.dispatcher.dispatch()
    listener.receipt(refs[0])
    listener.settler.look()
    assert [group.kind for group in listener.ledger.notices.untold()] == ["recovered"]


def test_a_delivery_never_exceeds_what_prefect_takes_as_parameters(listener: Listener) -> None:
    long = "ü" * 400
    listener.see(*(ObjectRef("raw", f"churn/{long}{number}.csv", "e") for number in range(400)))
    listener.dispatcher.dispatch()
    assert all(sum(len(key.encode()) for key in keys) < 250_000 for keys in listener.prefect.batches())
    assert len(listener.prefect.events) > 1


def test_nothing_is_given_up_while_prefect_cannot_be_asked(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.see(ref)
    listener.dispatcher.dispatch()
    listener.prefect.error = TransientError("down")
    for _ in range(5):
        with pytest.raises(TransientError):
            listener.settler.look()
    assert listener.fate(ref.key)[0] == Fate.DISPATCHED


def test_a_deleted_ledger_is_rebuilt_without_a_single_event(listener: Listener) -> None:
    good, bad = listener.put("churn/good.csv", b"1"), listener.put("churn/bad.csv", b"2")
    listener.receipt(good, **listener.output(good, b"prepared"))
    listener.receipt(bad, fate="rejected", reason="is empty")
    report = listener.sweep()
    assert (report.objects, report.receipts, report.new, report.settled) == (2, 2, 0, 2)
    listener.dispatcher.dispatch()
    assert listener.fate(good.key)[0] == Fate.PROCESSED
    assert listener.fate(bad.key) == (Fate.REJECTED, "is empty")
    assert listener.prefect.events == []


def test_a_known_object_is_settled_by_the_sweep_that_finds_its_receipt(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.see(ref)
    listener.receipt(ref)
    listener.store.put("processed", "_receipts/churn/churn/b.csv/e.f.json", b"{", "x/y")
    report = listener.sweep()
    assert (report.new, report.settled) == (0, 1)
    assert listener.fate(ref.key)[0] == Fate.PROCESSED


def test_a_receipt_that_vanished_is_made_again(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.receipt(ref)
    listener.sweep()
    listener.store.delete("processed", receipt_key(listener.datasets["churn"], ref, "f"))
    assert listener.sweep().reopened == 1
    assert listener.fate(ref.key) == (Fate.PENDING, "its receipt or output is gone")


def test_the_sweep_takes_a_newer_receipt_for_the_truth(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.receipt(ref, fate="rejected", reason="too old")
    listener.sweep()
    entry = listener.entry(ref.key)
    assert entry.receipt_at
    later = datetime.now(UTC) + timedelta(seconds=1)
    while datetime.now(UTC).replace(microsecond=0) <= entry.receipt_at or datetime.now(UTC) < later:
        pass  # the store tells whole seconds
    listener.receipt(ref, fingerprint="g", written_at=later)
    assert listener.sweep().settled == 1
    assert listener.fate(ref.key)[0] == Fate.PROCESSED


def test_a_receipt_that_cannot_be_read_stops_no_other(listener: Listener) -> None:
    broken, good = listener.put("churn/broken.csv", b"1"), listener.put("churn/good.csv", b"2")
    key = receipt_key(listener.datasets["churn"], broken, "f")
    listener.store.put("processed", key, b"{", "application/json")
    listener.receipt(good)
    listener.sweep()
    listener.dispatcher.dispatch()
    listener.settler.look()
    assert listener.fate(good.key)[0] == Fate.PROCESSED
    fate, reason = listener.fate(broken.key)
    assert fate == Fate.FAILED
    assert "is no receipt: delete it and replay" in reason


def test_an_output_without_receipt_is_found_and_given_to_a_run(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    kept = listener.put("churn/kept.csv")
    listener.receipt(kept, **listener.output(kept, b"prepared"))
    listener.put("churn/foreign.parquet", b"none of ours", "processed")
    listener.output(ref, b"left behind")
    listener.sweep()
    assert listener.orphans == [], "a first sweep knows too little"
    assert listener.sweep().orphans == 1
    assert listener.orphans == [ref.key]


def test_only_one_listener_sweeps_at_a_time(listener: Listener) -> None:
    assert listener.ledger.watch.lease("sweep", "another", 60)
    assert listener.sweeper.once() is None
    listener.ledger.watch.release("sweep", "another")
    assert listener.sweeper.once() is not None


def test_a_replay_of_what_is_unchanged_makes_one_event_and_settles_as_before(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.receipt(ref, fate="rejected", reason="is empty")
    listener.sweep()
    listener.ledger.replay([listener.entry(ref.key)], force=False)
    listener.dispatcher.dispatch()
    listener.settler.look()
    assert listener.fate(ref.key)[0] == Fate.PENDING, "the old receipt alone does not settle it"
    listener.dispatcher.dispatch()
    listener.prefect.run(ref.key, kind="FAILED", state="Rejected")
    listener.settler.look()
    assert listener.fate(ref.key) == (Fate.REJECTED, "is empty")


def test_a_forced_replay_says_so_in_its_event(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.receipt(ref)
    listener.sweep()
    listener.ledger.replay([listener.entry(ref.key)], force=True)
    listener.dispatcher.dispatch()
    assert listener.prefect.events[0]["payload"]["force"] is True


def test_quiet_objects_wait_until_their_time(ledger: Ledger, store: ObjectStore) -> None:
    listener = with_readiness(ledger, store, quiet_seconds=3600)
    listener.see(listener.put("churn/a.csv"))
    listener.dispatcher.dispatch()
    entry = listener.entry("churn/a.csv")
    assert entry.fate == Fate.PENDING
    assert entry.ready_at == entry.first_seen + timedelta(hours=1)
    assert listener.prefect.events == []


def test_objects_wait_for_the_marker_of_their_folder(ledger: Ledger, store: ObjectStore) -> None:
    listener = with_readiness(ledger, store, marker="_SUCCESS")
    for key in ("churn/1/a.csv", "churn/1/b.csv", "churn/2/c.csv"):
        listener.see(listener.put(key))
    listener.dispatcher.dispatch()
    assert listener.prefect.events == []
    listener.see(listener.put("churn/1/_SUCCESS", b""))
    listener.dispatcher.dispatch()
    assert listener.prefect.batches() == [["churn/1/a.csv", "churn/1/b.csv"]]
    assert listener.fate("churn/1/_SUCCESS")[0] == Fate.IGNORED
    listener.see(listener.put("churn/1/late.csv"))
    listener.dispatcher.dispatch()
    assert listener.prefect.batches()[1:] == [["churn/1/late.csv"]]


def test_an_overwrite_waits_its_own_quiet_time(ledger: Ledger, store: ObjectStore) -> None:
    listener = with_readiness(ledger, store, quiet_seconds=0.2)
    first = listener.put("churn/a.csv", b"A")
    listener.see(first)
    listener.dispatcher.dispatch()
    listener.see(listener.put("churn/a.csv", b"B"))
    time.sleep(0.1)
    listener.dispatcher.dispatch()
    assert listener.prefect.events == []
    time.sleep(0.3)
    listener.dispatcher.dispatch()
    assert listener.prefect.batches() == [["churn/a.csv"]]
    entry = listener.ledger.lookup("raw", [first.key])[first.key, first.etag]
    assert (entry.fate, entry.reason) == (Fate.IGNORED, "overwritten before it was prepared")


def test_a_thousand_that_wait_hide_no_marked_folder(
    ledger: Ledger, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dropflow.ledger.ledger.PAGE", 3)
    listener = with_readiness(ledger, store, marker="_SUCCESS")
    listener.see(*(ObjectRef("raw", f"churn/1/{number}.csv", "e") for number in range(10)))
    listener.see(listener.put("churn/2/a.csv"))
    listener.dispatcher.dispatch()
    listener.put("churn/2/_SUCCESS", b"")
    listener.dispatcher.release_marked()
    listener.dispatcher.dispatch()
    assert listener.prefect.batches() == [["churn/2/a.csv"]]


def test_a_marker_nobody_told_of_is_found(ledger: Ledger, store: ObjectStore) -> None:
    listener = with_readiness(ledger, store, marker="_SUCCESS")
    listener.see(listener.put("churn/1/a.csv"))
    listener.dispatcher.dispatch()
    listener.put("churn/1/_SUCCESS", b"")
    listener.dispatcher.release_marked()
    listener.dispatcher.dispatch()
    assert listener.prefect.batches() == [["churn/1/a.csv"]]


@pytest.mark.parametrize(
    ("text", "readiness"),
    [
        ("immediately", Readiness()),
        ("quiet 30s", Readiness(quiet_seconds=30)),
        ("quiet 1.5h", Readiness(quiet_seconds=5400)),
        ("marker _SUCCESS", Readiness(marker="_SUCCESS")),
    ],
)
def test_readiness_is_written_in_words(churn: Dataset, text: str, readiness: Readiness) -> None:
    content = {**churn.model_dump(exclude_unset=True), "ready": text}
    assert Dataset.model_validate(content).ready == readiness


@pytest.mark.parametrize("text", ["soon", "quiet", "quiet 3 days", "marker a/b", "marker"])
def test_a_readiness_that_makes_no_sense_is_refused(churn: Dataset, text: str) -> None:
    with pytest.raises(ValueError, match="expected immediately, quiet 30s"):
        Dataset.model_validate({**churn.model_dump(exclude_unset=True), "ready": text})


PAUSED = "paused: dropflow resume churn (or resume the deployment in the Prefect UI)"


def test_objects_of_a_paused_dataset_wait_and_leave_together(listener: Listener) -> None:
    refs = [listener.put(f"churn/{name}.csv", name.encode()) for name in "abc"]
    listener.prefect.paused_datasets = {"churn"}
    listener.see(*refs, listener.put("iris/a.csv"))
    for _ in range(2):
        listener.dispatcher.dispatch()
    assert listener.prefect.batches() == [["iris/a.csv"]]
    assert {listener.fate(ref.key) for ref in refs} == {(Fate.PENDING, PAUSED)}
    assert [what for _, what in listener.ledger.story(listener.entry(refs[0].key))] == [PAUSED]
    assert read_status(listener.ledger).to_json()["paused"] == {"churn": 3}
    listener.prefect.paused_datasets = set()
    listener.dispatcher.dispatch()
    assert listener.prefect.batches()[1:] == [[ref.key for ref in refs]]
    assert read_status(listener.ledger).held == {}


def test_what_finds_no_room_after_a_pause_is_not_called_paused(ledger: Ledger, store: ObjectStore) -> None:
    listener = make_listener(ledger, store, load_datasets(PROJECT / "datasets"), runs_per_dataset=1)
    listener.see(listener.put("churn/a.csv"))
    listener.dispatcher.dispatch()
    listener.prefect.paused_datasets = {"churn"}
    listener.see(listener.put("churn/b.csv", b"b"))
    listener.dispatcher.dispatch()
    assert listener.fate("churn/b.csv") == (Fate.PENDING, PAUSED)
    listener.prefect.paused_datasets = set()
    listener.dispatcher.dispatch()
    assert listener.fate("churn/b.csv") == (Fate.PENDING, "")


def test_a_redelivery_waits_for_the_end_of_a_pause_and_counts_only_then(listener: Listener) -> None:
    ref = listener.put("churn/a.csv")
    listener.see(ref)
    listener.dispatcher.dispatch()
    listener.prefect.paused_datasets = {"churn"}
    for _ in range(5):
        listener.settler.look()
        listener.dispatcher.dispatch()
    assert listener.fate(ref.key) == (Fate.PENDING, PAUSED)
    assert listener.entry(ref.key).deliveries == 1
    assert listener.failed == []
    listener.prefect.paused_datasets = set()
    listener.dispatcher.dispatch()
    assert listener.entry(ref.key).deliveries == 2
    assert listener.prefect.batches() == [[ref.key], [ref.key]]


def test_a_delivery_claimed_before_the_pause_is_posted_after_it(listener: Listener) -> None:
    listener.see(listener.put("churn/a.csv"))
    listener.prefect.error = TransientError("down")
    with pytest.raises(TransientError):
        listener.dispatcher.dispatch()
    listener.prefect.error = None
    listener.prefect.paused_datasets = {"churn"}
    listener.dispatcher.dispatch()
    listener.settler.look()
    assert listener.prefect.events == []
    listener.prefect.paused_datasets = set()
    listener.dispatcher.dispatch()
    assert listener.prefect.batches() == [["churn/a.csv"]]
    assert listener.entry("churn/a.csv").deliveries == 1


def test_a_pause_holds_while_prefect_cannot_be_asked(listener: Listener) -> None:
    listener.prefect.paused_datasets = {"churn"}
    listener.see(listener.put("churn/a.csv"))
    listener.dispatcher.dispatch()
    listener.prefect.error = TransientError("down")
    listener.dispatcher.dispatch()
    assert listener.fate("churn/a.csv") == (Fate.PENDING, PAUSED)


def test_prefect_is_asked_for_pauses_once_for_all_and_not_when_nothing_waits(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pausing, "ASK_AGAIN", 60)
    listener.dispatcher.dispatch()
    assert listener.prefect.asked == 0
    for number in range(3):
        listener.see(listener.put(f"churn/{number}.csv", b"%d" % number), listener.put(f"iris/{number}.csv"))
        listener.dispatcher.dispatch()
    assert listener.prefect.asked == 1
    assert len(listener.prefect.events) == 6
