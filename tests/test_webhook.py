"""The webhook and the intake behind it: who may call, what is kept and when it is answered."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient
from test_parsing import body, record, seaweed

from dropflow.crashpoints import Point, observe
from dropflow.datasets import Datasets
from dropflow.declarations import load_datasets
from dropflow.errors import TransientError
from dropflow.ledger import Fate, Ledger, Settlement
from dropflow.ledger import ledger as ledger_module
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.settings import PROJECT
from listeners import intake as intake_module
from listeners import webhook
from listeners.intake import Intake
from listeners.metrics import Metrics

TOKEN = "a-token-for-the-tests"


class CountingLedger(Ledger):
    """A ledger that counts its transactions of new objects, and can be held up or fail in them."""

    transactions = 0

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.errors: list[Exception] = []
        self.begun = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def record(self, created: Iterable[ObjectCreated], outcomes: Iterable[Settlement] = ()) -> int:
        self.transactions += 1
        self.begun.set()
        assert self.may_go_on.wait(20)
        if self.errors:
            raise self.errors.pop(0)
        return super().record(created, outcomes)


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[CountingLedger]:
    ledger = CountingLedger(f"sqlite:///{tmp_path}/counted.sqlite")
    yield ledger
    ledger.close()


@pytest.fixture
def datasets() -> Datasets:
    return load_datasets(PROJECT / "datasets")


def calling(ledger: Ledger, why_not_ready: str = "") -> TestClient:
    """A caller with the token."""
    intake = Intake(ledger, load_datasets(PROJECT / "datasets"))
    app = webhook.make_app(intake, SecretStr(TOKEN), Metrics(ledger), lambda: why_not_ready)
    return TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"})


@pytest.fixture
def client(ledger: Ledger) -> TestClient:
    return calling(ledger)


def pending(ledger: Ledger) -> list[str]:
    return [entry.ref.key for entry in ledger.search(fates=[Fate.PENDING])]


def created(*keys: str, bucket: str = "raw") -> list[ObjectCreated]:
    return [ObjectCreated(ObjectRef(bucket, key, "e1"), "webhook") for key in keys]


def test_minio_and_seaweedfs_bodies_are_in_the_ledger_when_answered(
    client: TestClient, ledger: Ledger
) -> None:
    assert (
        client.post(webhook.PATH, content=body(record("churn/a.csv"), record("churn/b.csv"))).status_code
        == 204
    )
    assert client.post(webhook.PATH, content=seaweed("/buckets/raw/churn/c.csv")).status_code == 204
    assert pending(ledger) == ["churn/a.csv", "churn/b.csv", "churn/c.csv"]


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer ä"])
def test_a_wrong_or_missing_token_is_refused(client: TestClient, ledger: Ledger, given: str | None) -> None:
    headers = {"Authorization": b"" if given is None else given.encode()}
    answer = client.post(webhook.PATH, content=body(record()), headers=headers)
    assert answer.status_code == 401
    assert pending(ledger) == []


def test_a_body_that_cannot_be_read_is_kept_and_accepted(client: TestClient, ledger: Ledger) -> None:
    """Refusing it would block MinIO's queue behind it for ever."""
    for content in (b"no json", b"no json", body(record("churn/a.csv"), {})):
        assert client.post(webhook.PATH, content=content).status_code == 204
    assert ledger.unreadable() == 2
    assert pending(ledger) == ["churn/a.csv"]


def test_a_body_that_is_too_long_is_refused(
    client: TestClient, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "LONGEST_BODY", 100)
    assert client.post(webhook.PATH, content=b"x" * 101).status_code == 413
    assert ledger.unreadable() == 0


def test_minio_can_ask_whether_the_target_is_there(client: TestClient) -> None:
    assert client.head(webhook.PATH).status_code == 204


def test_a_ledger_that_cannot_be_reached_makes_the_store_send_it_again(counting: CountingLedger) -> None:
    client = calling(counting)
    counting.errors = [TransientError("the ledger: locked")]
    assert client.post(webhook.PATH, content=body(record())).status_code == 503
    assert client.post(webhook.PATH, content=body(record())).status_code == 204
    assert pending(counting) == ["churn/a.csv"]


def test_without_a_token_health_readiness_and_metrics_are_told(ledger: Ledger) -> None:
    ready, starting = calling(ledger), calling(ledger, "the first sweep has not ended yet")
    for client in (ready, starting):
        client.headers = {}
        assert client.get("/healthz").status_code == 200
        assert client.get("/metrics").status_code == 200
    assert (ready.get("/readyz").status_code, ready.get("/readyz").text) == (200, "ready\n")
    answer = starting.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "the first sweep has not ended yet\n")


def test_metrics_tell_calls_by_result_and_what_the_ledger_holds(
    counting: CountingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "LONGEST_BODY", 1000)
    client = calling(counting)
    client.post(webhook.PATH, content=body(record("churn/a.csv"), record("churn/b.csv")))
    client.post(webhook.PATH, content=b"no json")
    client.post(webhook.PATH, content=b"x" * 1001)
    client.post(webhook.PATH, content=body(record()), headers={"Authorization": "Bearer wrong"})
    counting.errors = [TransientError("the ledger: locked")]
    client.post(webhook.PATH, content=body(record("churn/c.csv")))
    told = client.get("/metrics")
    assert told.headers["content-type"].startswith("text/plain; version=")
    lines = told.text.splitlines()
    results = ("recorded", "unreadable", "too long", "unauthorized", "ledger unreachable")
    assert {f'dropflow_webhook_requests_total{{result="{result}"}} 1.0' for result in results} <= set(lines)
    assert 'dropflow_objects{dataset="",fate="pending"} 2.0' in lines
    assert "dropflow_unreadable_notifications 1.0" in lines
    assert TOKEN not in told.text


def test_many_calls_at_once_cost_few_transactions(counting: CountingLedger, datasets: Datasets) -> None:
    intake = Intake(counting, datasets)

    async def calls() -> None:
        await asyncio.gather(*(intake.record(created(f"churn/{number}.csv")) for number in range(500)))

    asyncio.run(calls())
    assert len(pending(counting)) == 500
    assert counting.transactions < 10
    assert intake.arrived.is_set()


def test_one_transaction_takes_no_more_than_its_share(
    counting: CountingLedger, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "MOST_TOGETHER", 10)
    intake = Intake(counting, datasets)

    async def calls() -> None:
        await asyncio.gather(*(intake.record(created(f"churn/{number}.csv")) for number in range(50)))

    asyncio.run(calls())
    assert len(pending(counting)) == 50
    assert counting.transactions == 5


def test_nothing_is_acknowledged_before_it_is_committed(counting: CountingLedger, datasets: Datasets) -> None:
    intake = Intake(counting, datasets)
    counting.may_go_on.clear()

    async def calls() -> None:
        first = asyncio.create_task(intake.record(created("churn/first.csv")))
        await asyncio.to_thread(counting.begun.wait, 20)
        others = [asyncio.create_task(intake.record(created(f"churn/{n}.csv"))) for n in range(20)]
        cancelled = asyncio.create_task(intake.record(created("churn/cancelled.csv")))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert not [task for task in (first, *others) if task.done()]
        assert not intake.arrived.is_set()
        assert await asyncio.to_thread(pending, counting) == []
        counting.may_go_on.set()
        await asyncio.gather(first, *others)

    asyncio.run(calls())
    assert {"churn/first.csv", *(f"churn/{n}.csv" for n in range(20))} <= set(pending(counting))
    assert counting.transactions == 2, "what came meanwhile gathered for the second"


def test_the_crash_point_lies_between_commit_and_acknowledgement(ledger: Ledger, datasets: Datasets) -> None:
    intake, passed = Intake(ledger, datasets), []

    def at(point: Point) -> None:
        passed.append((point, pending(ledger), recording.done()))

    async def call() -> None:
        nonlocal recording
        recording = asyncio.create_task(intake.record(created("churn/a.csv")))
        await recording

    recording: asyncio.Task[None]
    observe(at)
    try:
        asyncio.run(call())
    finally:
        observe(None)
    assert passed == [(Point.NOTIFICATION_RECORDED, ["churn/a.csv"], False)]


def test_an_error_reaches_every_caller_of_its_transaction_and_no_later_one(
    counting: CountingLedger, datasets: Datasets
) -> None:
    intake = Intake(counting, datasets)
    counting.errors = [TransientError("the ledger: locked")]

    async def calls() -> list[BaseException | None]:
        together = [intake.record(created(f"churn/{number}.csv")) for number in range(10)]
        answers = await asyncio.gather(*together, return_exceptions=True)
        await intake.record(created("churn/later.csv"))
        return answers

    assert [str(answer) for answer in asyncio.run(calls())] == ["the ledger: locked"] * 10
    assert pending(counting) == ["churn/later.csv"]


def test_what_belongs_to_nobody_costs_no_transaction(counting: CountingLedger, datasets: Datasets) -> None:
    intake = Intake(counting, datasets)
    receipt = "_receipts/churn/a.csv/e.f.json"
    news = created("churn/a.csv", bucket="elsewhere") + created("churn/folder/")
    news += created("churn/a.parquet", receipt, bucket="processed")
    asyncio.run(intake.record(news))
    assert counting.transactions == 0
    assert list(intake.receipts) == [("processed", receipt)]
    assert intake.told.is_set()
    assert not intake.arrived.is_set()


def test_what_is_known_wakes_nobody(ledger: Ledger, datasets: Datasets) -> None:
    intake = Intake(ledger, datasets)
    asyncio.run(intake.record(created("churn/a.csv")))
    intake.arrived.clear()
    asyncio.run(intake.record(created("churn/a.csv", "churn/a.csv")))
    assert not intake.arrived.is_set()
    assert pending(ledger) == ["churn/a.csv"]


def test_unreadable_bodies_are_kept_in_part_and_not_for_ever(
    client: TestClient, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MOST_UNREADABLE", 3)
    for number in range(5):
        assert client.post(webhook.PATH, content=b"%d" % number + b"x" * 100_000).status_code == 204
    assert ledger.unreadable() == 3
