"""The listener's own alerts and its canary, with a real SMTP server."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from dropflow.datasets import Dataset, Datasets
from dropflow.declarations import load_datasets
from dropflow.demo import body_of, smtp_server, subject_of
from dropflow.errors import DatasetError, SettingsError, TransientError
from dropflow.ledger import Fate, Ledger, Settlement
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.receipts import Receipt, commit_receipt
from dropflow.settings import PROJECT, Settings
from dropflow.storage import ObjectStore
from listeners import alerts as alerting
from listeners.alerts import Alerts
from listeners.canary import Canary, make_canary
from listeners.metrics import Metrics


class Recorder(Alerts):
    def __init__(self) -> None:
        super().__init__(None)
        self.told: list[tuple[str, str]] = []

    def alert(self, subject: str, body: str, *, count: int = 1) -> None:  # noqa: ARG002
        self.told.append((subject, body))


def test_an_alert_arrives_by_mail() -> None:
    with smtp_server() as (mailbox, url):
        Alerts(url).alert("Failed: churn", "3 objects have no receipt")
        mail = mailbox.wait_for("Failed: churn", 20)
    assert mail is not None
    assert subject_of(mail) == "Failed: churn"
    assert "3 objects have no receipt" in body_of(mail)


def test_a_flood_of_one_alert_is_one_message_and_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(alerting, "QUIET_SECONDS", 0.5)
    alerts = Alerts(SecretStr("json://localhost"), lambda _, subject, body: sent.append((subject, body)))
    for _ in range(50):
        alerts.alert("Failed: churn", "why", count=10)
    alerts.alert("Failed: iris", "why")
    deadline = time.monotonic() + 5
    while len(sent) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(subject for subject, _ in sent) == ["Failed: churn", "Failed: churn", "Failed: iris"]
    assert "490 more objects" in sent[-1][1]


def test_a_dead_channel_stops_nothing_and_keeps_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    def dead(url: SecretStr, *_: str) -> None:
        raise TransientError(f"no answer from {url.get_secret_value()}")

    Alerts(SecretStr("json://user:a-secret@localhost"), dead).alert("Failed: churn", "why")
    deadline = time.monotonic() + 5
    while "could not be sent" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "could not be sent" in caplog.text
    assert "a-secret" not in caplog.text


def sing(canary: Canary) -> None:
    asyncio.run(canary._sing())


def test_a_canary_that_comes_through_is_cleaned_up(store: ObjectStore, churn: Dataset) -> None:
    alerts = Recorder()

    async def sing_and_prepare() -> None:
        song = asyncio.create_task(Canary(store, churn, b"x", 20, alerts)._sing())
        while not (found := list(store.list("raw"))):
            await asyncio.sleep(0.05)
        ref = found[0]
        place = {"dataset": "churn", "bucket": "raw", "key": ref.key, "etag": ref.etag}
        store.put("processed", churn.output_key(ref.key), b"prepared", "x/y")
        commit_receipt(store, churn, Receipt(**place, fingerprint="f", fate="processed"), force=False)
        await song

    asyncio.run(sing_and_prepare())
    assert alerts.told == []
    assert list(store.list("raw")) == list(store.list("processed")) == []


def test_a_canary_that_does_not_come_through_alerts(store: ObjectStore, churn: Dataset) -> None:
    alerts = Recorder()
    sing(Canary(store, churn, b"x", 0.5, alerts))
    ((subject, body),) = alerts.told
    assert subject == "Canary: no receipt"
    assert "has no receipt after 0.5 s: see `dropflow explain churn/_canary/" in body
    assert list(store.list("raw")) == []


def test_a_canary_wants_a_dataset_and_a_file(store: ObjectStore, settings: Settings) -> None:
    datasets: Datasets = load_datasets(PROJECT / "datasets")

    def make(**given: object) -> Canary | None:
        return make_canary(settings.model_copy(update=given), datasets, store, Recorder())

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
