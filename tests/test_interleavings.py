"""A state machine drives ledger, dispatcher, settler, sweep and preparations through random interleavings.

Notifications come late, twice, out of order or never; events are lost; runs and listeners die at every
named point; objects are overwritten in the middle of a run; the ledger is deleted. The model is simple:
whatever happened, once it stops and everything is started again, every object in the bucket has its fate,
its receipt and the output that its bytes deserve.
"""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledgers import new_ledger
from memory_store import MemoryStore

from dropflow import crashpoints
from dropflow.audit import audit
from dropflow.crashpoints import Point
from dropflow.datasets import Dataset, Datasets
from dropflow.errors import TransientError
from dropflow.ledger import Fate, outbox
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.prefect_api import Run
from dropflow.receipts import COMPANIONS, PREFIX, SOURCE, Receipt
from flows.preparation import Preparation
from listeners import dispatcher as dispatching
from listeners import settler as settling
from listeners.dispatcher import Dispatcher
from listeners.settler import Patience, Settler
from listeners.sweep import Sweep

KEYS = ["t/a.csv", "t/b.csv", "t/ü b.csv"]
GOOD = [b"a,b\n1,x\n2,y\n", b"a,b\n3,x\n", b"a,b\n4,x\n5,y\n6,z\n"]
BAD = b"a,b\nnot a number,x\n"
CONTENTS = [*GOOD, BAD]
DATASET = Dataset.model_validate(
    {
        "name": "tiny",
        "match": "raw/t/*.csv",
        "columns": {"a": {"type": "number"}, "b": {"type": "text"}},
        "steps": [{"drop": ["b"]}],
    }
)
DATASETS = Datasets({"tiny": DATASET})
STAGES = ["check receipt", "read", "validate", "write", "commit"]
LISTENER_POINTS = [
    Point.OBJECTS_CLAIMED,
    Point.EVENT_POSTED,
    Point.DELIVERY_RECORDED,
    Point.FATE_RECORDED,
]
RUN_POINTS = [Point.OUTPUT_WRITTEN, Point.RECEIPT_WRITTEN, Point.ORPHAN_REMOVED]
NEVER = 10**6
NO_WAITING = [
    (outbox, "LISTENER_LOST_AFTER", timedelta(0)),
    (dispatching, "FIRST_LOOK", 0),
    (dispatching, "PER_OBJECT", 0),
    (settling, "LOOK_AGAIN", timedelta(0)),
    (settling, "LOOK_AGAIN_EACH", timedelta(0)),
    (settling, "BACKOFF", (0,)),
]


class Crash(BaseException):
    """The process ends here."""


@contextmanager
def crashing_at(point: Point | None) -> Iterator[None]:
    def observe(reached: Point) -> None:
        if reached == point:
            raise Crash

    crashpoints.observe(observe)
    try:
        yield
    except Crash:
        pass
    finally:
        crashpoints.observe(None)


class Prefect:
    """Keeps events once by id, makes a run of each, loses those it is told to lose."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.runs: list[dict[str, Any]] = []
        self.down = False
        self.loses = False

    def post_events(self, events: list[dict[str, Any]]) -> None:
        if self.down:
            raise TransientError("Prefect is down")
        for event in events:
            if event["id"] not in self.seen and not self.loses:
                payload = event["payload"]
                keys = [found["key"] for found in payload["objects"]]
                self.runs.append({"keys": keys, "force": payload["force"], "type": "SCHEDULED", "state": ""})
            self.seen.add(event["id"])

    def paused(self) -> frozenset[str]:
        return frozenset()

    def runs_of(self, _dataset: str, _since: datetime) -> list[Run]:
        if self.down:
            raise TransientError("Prefect is down")
        now = datetime.now(UTC)
        return [
            Run(str(n), frozenset(r["keys"]), r["type"], r["state"] or r["type"].title(), "", now, now)
            for n, r in enumerate(self.runs)
        ]


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        shared = Path("/dev/shm")  # noqa: S108 - a disk in memory: every commit is flushed
        self.folder = tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None)
        self.store: Any = MemoryStore()
        self.prefect: Any = Prefect()
        self.contents: dict[str, bytes] = {}
        self.notifications: list[ObjectRef] = []
        self.told: list[tuple[str, str]] = []
        self.listeners = self.ledgers = 0
        self.saved = [(module, name, getattr(module, name)) for module, name, _ in NO_WAITING]
        for module, name, value in NO_WAITING:
            setattr(module, name, value)
        self.new_ledger()

    def new_ledger(self) -> None:
        self.ledgers += 1
        self.ledger = new_ledger(Path(self.folder.name, f"{self.ledgers}.sqlite"))
        self.new_listener()

    def new_listener(self) -> None:
        self.listeners += 1
        name = f"listener {self.listeners}"
        patience = Patience(receipt=timedelta(0), run=timedelta(0), deliveries=NEVER)
        shared = (self.ledger, DATASETS, self.store)
        self.settler = Settler(*shared, self.prefect, patience=patience)
        self.dispatcher = Dispatcher(*shared, self.prefect, listener=name, receipt_seconds=0)
        self.sweeper = Sweep(
            *shared,
            self.settler,
            listener=name,
            orphan_seconds=0,
            orphan_found=lambda _, ref: self.prefect.runs.append(
                {"keys": [ref.key], "force": False, "type": "SCHEDULED", "state": ""}
            ),
        )

    # What users and the store do

    @rule(key=st.sampled_from(KEYS), content=st.sampled_from(CONTENTS))
    def put(self, key: str, content: bytes) -> None:
        ref = self.store.put("raw", key, content, "text/csv")
        self.contents[ref.etag] = content
        self.notifications.append(ref)

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: str) -> None:
        self.store.delete("raw", key)

    @precondition(lambda self: self.notifications)
    @rule(data=st.data(), again=st.booleans(), without_etag=st.booleans())
    def notify(self, data: st.DataObject, again: bool, without_etag: bool) -> None:
        number = data.draw(st.integers(0, len(self.notifications) - 1))
        ref = self.notifications[number] if again else self.notifications.pop(number)
        if without_etag:
            ref = ObjectRef(ref.bucket, ref.key)
        self.ledger.record([ObjectCreated(ref, "webhook")])

    @rule()
    def lose_notifications(self) -> None:
        self.notifications.clear()
        self.told.clear()

    # What the listener does, or dies of

    @rule(point=st.sampled_from([None, None, *LISTENER_POINTS]))
    def dispatch(self, point: Point | None) -> None:
        self._listening(self.dispatcher.dispatch, point)

    @rule(point=st.sampled_from([None, None, *LISTENER_POINTS]))
    def look(self, point: Point | None) -> None:
        self._listening(self.settler.look, point)

    @rule()
    def read_told(self) -> None:
        told, self.told = self.told, []
        self.settler.read(told)

    @rule(point=st.sampled_from([None, Point.FATE_RECORDED]))
    def sweep(self, point: Point | None) -> None:
        self._listening(self.sweeper.once, point)

    def _listening(self, step: Callable[[], Any], point: Point | None) -> None:
        before = crashpoints._observer
        with crashing_at(point):
            try:
                step()
            except TransientError:
                assert self.prefect.down
        crashpoints.observe(before)
        if point:
            self.new_listener()

    @rule(key=st.sampled_from(KEYS))
    def delete_output(self, key: str) -> None:
        self.store.delete("processed", DATASET.output_key(key))

    @rule()
    def delete_ledger(self) -> None:
        self.ledger.close()
        self.new_ledger()

    @rule(down=st.booleans(), loses=st.booleans())
    def trouble_prefect(self, down: bool, loses: bool) -> None:
        self.prefect.down, self.prefect.loses = down, loses

    @rule(key=st.sampled_from(KEYS), force=st.booleans())
    def replay(self, key: str, force: bool) -> None:
        settled = [e for e in self.ledger.find("raw", key) if e.fate in (Fate.PROCESSED, Fate.REJECTED)]
        self.ledger.replay(settled[:1], force=force)

    # What workers do, or die of

    @precondition(lambda self: any(r["type"] == "SCHEDULED" for r in self.prefect.runs))
    @rule(data=st.data(), point=st.sampled_from([None, None, None, *RUN_POINTS]), zombie=st.booleans())
    def run(self, data: st.DataObject, point: Point | None, zombie: bool) -> None:
        self._run(self._scheduled(data), point, zombie)

    @precondition(lambda self: any(r["type"] == "SCHEDULED" for r in self.prefect.runs))
    @rule(
        data=st.data(),
        stage=st.sampled_from(STAGES),
        key=st.sampled_from(KEYS),
        content=st.sampled_from(CONTENTS),
    )
    def overwrite_during_a_run(self, data: st.DataObject, stage: str, key: str, content: bytes) -> None:
        self._run(self._scheduled(data), meanwhile=(stage, lambda: self.put(key, content)))

    @precondition(lambda self: sum(r["type"] == "SCHEDULED" for r in self.prefect.runs) > 1)
    @rule(data=st.data(), stage=st.sampled_from(STAGES))
    def two_runs_at_once(self, data: st.DataObject, stage: str) -> None:
        first, second = self._scheduled(data), self._scheduled(data)
        if first is not second:
            self._run(first, meanwhile=(stage, lambda: self._run(second)))

    @precondition(lambda self: any(r["type"] == "SCHEDULED" for r in self.prefect.runs))
    @rule(data=st.data(), stage=st.sampled_from(STAGES))
    def sweep_during_a_run(self, data: st.DataObject, stage: str) -> None:
        self._run(self._scheduled(data), meanwhile=(stage, lambda: self.sweep(None)))

    def _scheduled(self, data: st.DataObject) -> dict[str, Any]:
        waiting = [r for r in self.prefect.runs if r["type"] == "SCHEDULED"]
        return waiting[data.draw(st.integers(0, len(waiting) - 1))]

    def _run(
        self,
        run: dict[str, Any],
        point: Point | None = None,
        zombie: bool = False,
        meanwhile: tuple[str, Callable[[], None]] | None = None,
        orphan_seconds: float = 10**9,
    ) -> None:
        run["type"] = "RUNNING"
        number = str(self.prefect.runs.index(run))
        pending = [meanwhile] if meanwhile else []

        def stage(title: str, function: Callable[..., Any], *arguments: Any) -> Any:
            if pending and pending[0][0] == title:
                pending.pop()[1]()
            return function(*arguments)

        preparation = Preparation(
            self.store, DATASET, number, force=run["force"], orphan_seconds=orphan_seconds, stage=stage
        )
        before = set(self.store.buckets["processed"])
        with crashing_at(point):
            results = [preparation.prepare(key).result for key in run["keys"]]
            worst = next((r for r in ("failed", "interrupted", "rejected") if r in results), "")
            if set(results) == {"missing"}:
                worst = "failed"
            run["type"], run["state"] = ("FAILED", worst.title()) if worst else ("COMPLETED", "")
        if run["type"] == "RUNNING" and not zombie:
            run["type"] = "CRASHED"
        new = set(self.store.buckets["processed"]) - before
        self.told += [("processed", key) for key in new if key.startswith(PREFIX)]

    # What must hold

    def receipts(self) -> list[Receipt]:
        found = self.store.buckets["processed"]
        return [
            Receipt.model_validate_json(stored.body)
            for key, stored in found.items()
            if key.startswith(PREFIX)
        ]

    @initialize()
    def start(self) -> None:
        self.put(KEYS[0], GOOD[0])

    @invariant()
    def outputs_are_never_wrong(self) -> None:
        for key, stored in self.store.buckets["processed"].items():
            if not key.startswith((PREFIX, *COMPANIONS)):
                source = self.contents[stored.metadata[SOURCE]]
                pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(stored.body)), prepared(source))

    @invariant()
    def receipts_tell_the_truth(self) -> None:
        for receipt in self.receipts():
            assert (receipt.fate == "rejected") == (self.contents[receipt.etag] == BAD)

    def teardown(self) -> None:
        try:
            self._heal()
            self._check()
        finally:
            self.ledger.close()
            self.folder.cleanup()
            crashpoints.observe(None)
            for module, name, value in self.saved:
                setattr(module, name, value)

    def _heal(self) -> None:
        """Everything works again: a few rounds must be enough."""
        self.prefect.down = self.prefect.loses = False
        for _ in range(12):
            self.sweeper.once()
            self.dispatcher.dispatch()
            for run in self.prefect.runs:
                if run["type"] == "SCHEDULED":
                    self._run(run, orphan_seconds=-1)
            self.settler.look()

    def _check(self) -> None:
        proof = audit(self.store, DATASETS, self.ledger)
        assert proof.clean, proof
        in_flight = {Fate.PENDING, Fate.DISPATCHED}
        counts = self.ledger.counts()
        assert not [counts for fates in counts.values() for fate in fates if fate in in_flight], counts
        receipts = {(r.key, r.etag): r for r in self.receipts()}
        assert len(receipts) == len(self.receipts()), "one receipt per object"
        for key, stored in self.store.buckets["raw"].items():
            receipt = receipts[key, stored.ref.etag]
            (entry,) = [e for e in self.ledger.find("raw", key) if e.ref.etag == stored.ref.etag]
            assert entry.fate == receipt.fate
            if receipt.fate == "processed":
                output = self.store.buckets["processed"][receipt.output_key]
                assert output.metadata[SOURCE] == stored.ref.etag
                assert output.ref.etag == receipt.output_etag


def prepared(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content))[["a"]].astype(float)


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
