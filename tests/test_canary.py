"""The canary, and how long objects take."""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dropflow.datasets import Dataset, Datasets
from dropflow.declarations import load_datasets
from dropflow.demo import body_of, smtp_server, subject_of
from dropflow.errors import AlreadyExistsError, DatasetError, SettingsError, TransientError
from dropflow.ledger import Fate, Ledger, Settlement
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.receipts import Receipt, commit_receipt
from dropflow.settings import PROJECT, Settings
from dropflow.storage import ObjectStore
from listeners import canary as canary_module
from listeners.canary import Canary, make_canary
from listeners.metrics import Metrics
from listeners.notifier import Notifier


def sing(canary: Canary) -> None:
    asyncio.run(canary._sing())


def test_a_canary_that_comes_through_is_cleaned_up(
    store: ObjectStore, ledger: Ledger, churn: Dataset
) -> None:
    async def sing_and_prepare() -> None:
        song = asyncio.create_task(Canary(store, ledger, churn, b"x", 20, listener="me")._sing())
        while not (found := list(store.list("raw"))):
            await asyncio.sleep(0.05)
        ref = found[0]
        place = {"dataset": "churn", "bucket": "raw", "key": ref.key, "etag": ref.etag}
        store.put("processed", churn.output_key(ref.key), b"prepared", "x/y")
        commit_receipt(store, churn, Receipt(**place, fingerprint="f", fate="processed"), force=False)
        await song

    asyncio.run(sing_and_prepare())
    assert ledger.notices.untold() == []
    assert list(store.list("raw")) == list(store.list("processed")) == []


def prepare_canaries(store: ObjectStore, dataset: Dataset) -> None:
    """What runs would do."""
    for ref in store.list("raw", "churn/_canary/"):
        place = {"dataset": "churn", "bucket": "raw", "key": ref.key, "etag": ref.etag}
        with suppress(AlreadyExistsError):
            commit_receipt(store, dataset, Receipt(**place, fingerprint="f", fate="processed"), force=False)


def test_of_two_listeners_one_sings_and_the_other_goes_on_when_it_has_left(
    store: ObjectStore, ledger: Ledger, churn: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary_module, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(canary_module, "POLL", 0.05)
    content = {"one": b"1", "two": b"22"}
    dropped: list[bytes] = []
    put = ObjectStore.put

    def note(store: ObjectStore, bucket: str, key: str, body: bytes, *more: Any, **options: Any) -> ObjectRef:
        if body in content.values():
            dropped.append(body)
        return put(store, bucket, key, body, *more, **options)

    async def until_dropped(body: bytes, times: int) -> None:
        async with asyncio.timeout(20):
            while dropped.count(body) < times:
                await asyncio.to_thread(prepare_canaries, store, churn)
                await asyncio.sleep(0.05)

    def start(name: str) -> asyncio.Task[None]:
        return asyncio.create_task(Canary(store, ledger, churn, content[name], 2, listener=name).run())

    async def run() -> None:
        one = start("one")
        await until_dropped(content["one"], 1)
        two = start("two")
        await until_dropped(content["one"], 3)
        assert set(dropped) == {content["one"]}
        one.cancel()
        ledger.watch.leave("one")
        await until_dropped(content["two"], 2)
        two.cancel()

    monkeypatch.setattr(ObjectStore, "put", note)
    asyncio.run(run())
    assert ledger.notices.untold() == []


def test_a_canary_that_does_not_come_through_alerts(
    store: ObjectStore, ledger: Ledger, churn: Dataset
) -> None:
    sing(Canary(store, ledger, churn, b"x", 0.5, listener="me"))
    with smtp_server() as (mailbox, url):
        notifier = Notifier(ledger, Datasets({"churn": churn}), store, lambda: url, holder="me")
        deadline = time.monotonic() + 20
        while not mailbox.messages and time.monotonic() < deadline:
            notifier.compose()
            notifier.deliver()
            time.sleep(0.1)
        notifier.close()
    (mail,) = mailbox.messages
    assert subject_of(mail).startswith("Canary: churn · ")
    assert "no receipt after 0.5 s" in body_of(mail)
    assert list(store.list("raw")) == []


def test_a_canary_that_cannot_be_dropped_alerts(
    store: ObjectStore, ledger: Ledger, churn: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TransientError("the store is away")

    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await Canary(store, ledger, churn, b"x", 20, listener="me").run()

    monkeypatch.setattr(ObjectStore, "put", refuse)
    asyncio.run(run())
    (group,) = ledger.notices.untold()
    assert group.kind == "canary"
    assert ledger.notices.examples(group, 1)[0].reason == "the store is away"


def test_a_canary_wants_a_dataset_and_a_file(store: ObjectStore, ledger: Ledger, settings: Settings) -> None:
    datasets: Datasets = load_datasets(PROJECT / "datasets")

    def make(**given: object) -> Canary | None:
        return make_canary(settings.model_copy(update=given), datasets, store, ledger, listener="me")

    assert make() is None
    with pytest.raises(DatasetError, match="did you mean 'churn'"):
        make(canary_dataset="chrun")
    with pytest.raises(SettingsError, match="DROPFLOW_CANARY_FILE"):
        make(canary_dataset="churn")
    with pytest.raises(SettingsError, match="No such file"):
        make(canary_dataset="churn", canary_file=settings.data_dir / "none.csv")


def test_the_lag_is_from_the_objects_write_to_its_receipt(ledger: Ledger) -> None:
    written = datetime.now(UTC).replace(microsecond=0)
    ref = ObjectRef("raw", "churn/a.csv", "e", modified=written)
    ledger.record([ObjectCreated(ref, "webhook")])
    ledger.match((entry, "churn", written) for entry in ledger.unmatched(1))
    assert ledger.outbox.claim("churn", "me", 1)
    metrics = Metrics(ledger)
    receipt_at = written + timedelta(seconds=4)
    metrics.settled(ledger.settle([Settlement(ref, "churn", Fate.PROCESSED, "", receipt_at)]))
    found = metrics.registry.get_sample_value
    assert found("dropflow_lag_seconds_sum", {"dataset": "churn"}) == 4
    assert found("dropflow_lag_seconds_bucket", {"dataset": "churn", "le": "3.0"}) == 0
    assert found("dropflow_lag_seconds_bucket", {"dataset": "churn", "le": "5.0"}) == 1
    assert found("dropflow_objects", {"dataset": "churn", "fate": "processed"}) == 1
