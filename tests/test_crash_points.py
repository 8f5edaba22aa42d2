"""Every named point: a real process is killed there, started again, and the invariants are checked."""

import io
import signal
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from command_line import processes
from crashing import listen, work
from fake_prefect import FakePrefect, fake_prefect

from dropflow.audit import audit
from dropflow.crashpoints import Point
from dropflow.datasets import Dataset
from dropflow.declarations import load_datasets
from dropflow.ledger import Fate, Ledger
from dropflow.objects import ObjectRef
from dropflow.receipts import FINGERPRINT, PREFIX, SOURCE, read_receipt
from dropflow.samples import churn_csv
from dropflow.settings import PROJECT, Settings
from dropflow.storage import ObjectStore

GOOD, BAD = churn_csv(rows=40, seed=1), b"no,churn\n1,2\n"
ROUNDS = 4


class World:
    """A store, a Prefect that remembers events, a ledger; listeners and runs are processes."""

    def __init__(self, settings: Settings, prefect: FakePrefect) -> None:
        self.settings = settings
        self.prefect = prefect
        self.done = 0

    def listen(self, told: list[ObjectRef], point: Point | None = None) -> int:
        return self._process(listen, told, point)

    def work(self, point: Point | None = None) -> int:
        """Run what the events that have come since ask for; a run that dies is not started again."""
        events = list(self.prefect.events.values())[self.done :]
        self.done = len(self.prefect.events)
        keys = [found["key"] for event in events for found in event["payload"]["objects"]]
        return self._process(work, keys, point) if keys else 0

    def _process(self, target: object, given: list, point: Point | None) -> int:  # type: ignore[type-arg]
        process = processes.Process(target=target, args=(self.settings, given, point))  # type: ignore[arg-type]
        process.start()
        process.join(60)
        assert process.exitcode is not None
        return process.exitcode


@pytest.fixture
def world(settings: Settings, store: ObjectStore) -> Iterator[World]:
    with fake_prefect() as prefect:
        yield World(settings.model_copy(update={"prefect_api_url": prefect.url}), prefect)


def is_settled(ledger: Ledger) -> bool:
    return set(ledger.counts()["churn"]) <= {Fate.PROCESSED, Fate.REJECTED}


@pytest.mark.parametrize("point", [point for point in Point if point is not Point.ORPHAN_REMOVED])
def test_a_process_killed_at_any_point_loses_nothing(
    world: World, store: ObjectStore, churn: Dataset, point: Point
) -> None:
    refs = [
        store.put("raw", "churn/good.csv", GOOD, "text/csv"),
        store.put("raw", "churn/bad.csv", BAD, "text/csv"),
    ]
    # The fate is recorded when there are receipts: the listener is killed in its second round then.
    first = None if point is Point.FATE_RECORDED else point
    codes = [world.listen(refs, first), world.work(point), world.listen([], point)]
    assert -signal.SIGKILL in codes, "the point was reached"
    ledger = Ledger(world.settings.ledger)
    for _ in range(ROUNDS):
        assert world.listen([]) == 0
        assert world.work() == 0
        if is_settled(ledger):
            break
    assert audit(store, load_datasets(PROJECT / "datasets"), ledger).clean
    assert ledger.counts() == {"churn": {Fate.PROCESSED: 1, Fate.REJECTED: 1}}
    ledger.close()
    receipts = list(store.list("processed", PREFIX))
    assert len(receipts) == 2
    receipt = read_receipt(store, churn, refs[0])
    assert receipt is not None
    (output,) = store.list("processed", "churn/")
    assert (output.key, output.etag) == (receipt.output_key, receipt.output_etag)
    assert len(pd.read_parquet(io.BytesIO(store.get("processed", output.key)[1]))) == 40


def test_a_run_killed_while_it_cleans_up_leaves_nothing_behind(
    world: World, store: ObjectStore, churn: Dataset
) -> None:
    ref = store.put("raw", "churn/bad.csv", BAD, "text/csv")
    metadata = {SOURCE: "of other bytes", FINGERPRINT: "f"}
    store.put("processed", churn.output_key(ref.key), b"left behind", "x/y", metadata=metadata)
    assert world.listen([ref]) == 0
    assert world.work(Point.ORPHAN_REMOVED) == -signal.SIGKILL
    for _ in range(ROUNDS):
        world.listen([])
        world.work()
    assert list(store.list("processed", "churn/")) == []
    receipt = read_receipt(store, churn, ref)
    assert receipt is not None
    assert receipt.fate == "rejected"


def test_every_point_is_tested() -> None:
    assert {point.value for point in Point} == {
        "notification recorded",
        "objects claimed",
        "event posted",
        "delivery recorded",
        "fate recorded",
        "output written",
        "receipt written",
        "orphan removed",
    }


def test_the_folder_of_a_ledger_holds_nothing_else(world: World, settings: Settings) -> None:
    world.listen([])
    names = {path.name.partition("-")[0] for path in Path(settings.data_dir).iterdir()}
    assert names == {"ledger.sqlite"}
