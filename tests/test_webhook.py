"""The webhook: who may call, what is kept, what is answered."""

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient
from test_parsing import body, record, seaweed

from dropflow.datasets import load_datasets
from dropflow.ledger import Fate, Ledger
from dropflow.settings import PROJECT
from listeners import webhook
from listeners.intake import Intake

TOKEN = "a-token-for-the-tests"


@pytest.fixture
def client(ledger: Ledger) -> TestClient:
    intake = Intake(ledger, load_datasets(PROJECT / "datasets"))
    app = webhook.make_app(intake, SecretStr(TOKEN))
    return TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"})


def pending(ledger: Ledger) -> list[str]:
    return sorted(entry.ref.key for entry in ledger.with_fate(Fate.PENDING, 100))


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
