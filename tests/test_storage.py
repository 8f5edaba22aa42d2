"""Store and receipts, against moto."""

from pathlib import Path
from typing import Any

import pytest
import tenacity
from botocore.exceptions import ClientError, EndpointConnectionError

from dropflow import retry
from dropflow.datasets import Dataset
from dropflow.errors import (
    AlreadyExistsError,
    ObjectMissingError,
    PermanentError,
    ReceiptError,
    SettingsError,
    TransientError,
)
from dropflow.objects import ObjectRef
from dropflow.receipts import Receipt, commit_receipt, read_receipt, receipt_key
from dropflow.settings import Settings
from dropflow.storage import ObjectStore, connect

REF = ObjectRef("raw", "churn/a.csv", "etag1")


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry.retrying, "wait", tenacity.wait_none())


def test_put_get_stat_list(store: ObjectStore) -> None:
    for key in ("churn/fäil+name a&b.csv", "churn/a%20b.csv", "churn/folder/"):
        store.put("raw", key, b"abc" if not key.endswith("/") else b"", "text/csv")
    ref, content = store.get("raw", "churn/a%20b.csv")
    assert content == b"abc"
    assert ref == store.stat("raw", "churn/a%20b.csv")
    assert ref.size == 3
    listed = [found.key for found in store.list("raw", "churn/")]
    assert sorted(listed) == ["churn/a%20b.csv", "churn/fäil+name a&b.csv"]


def test_an_upload_tells_its_progress_and_what_the_store_answered(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(b"x" * 1000)
    sent: list[int] = []
    assert store.upload(path, "raw", "churn/up.csv", sent.append).size == 1000
    assert sum(sent) == 1000
    with pytest.raises(PermanentError, match=r"to s3://nowhere/k%0Aline"):
        store.upload(path, "nowhere", "k\nline", sent.append)


def test_listing_goes_through_all_pages(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        store.put("raw", f"k{number}", b"", "text/csv")
    real = store.client.list_objects_v2
    monkeypatch.setattr(store.client, "list_objects_v2", lambda **args: real(**args, MaxKeys=3))
    assert [ref.key for ref in store.list("raw")] == [f"k{number}" for number in range(7)]


def test_create_only_once(store: ObjectStore) -> None:
    store.create("raw", "once", b"1", "text/plain")
    with pytest.raises(AlreadyExistsError):
        store.create("raw", "once", b"2", "text/plain")
    assert store.get("raw", "once")[1] == b"1"


def test_missing_objects_are_told_apart(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissingError, match="deleted or renamed"):
        store.get("raw", "gone")
    with pytest.raises(ObjectMissingError):
        store.stat("raw", "gone")


class Failing:
    """A client whose head_object raises what it is given, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def head_object(self, **_: Any) -> dict[str, Any]:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return {"ETag": '"e"', "ContentLength": 1}


def answer(status: int, code: str = "") -> ClientError:
    return ClientError(
        {"Error": {"Code": code or str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Head"
    )


@pytest.mark.parametrize(
    "error",
    [
        answer(503),
        answer(500),
        answer(429),
        answer(400, "RequestTimeout"),
        EndpointConnectionError(endpoint_url="x"),
    ],
)
def test_transient_errors_are_tried_again(error: Exception) -> None:
    client = Failing(error, error)
    assert ObjectStore(client).stat("raw", "k").etag == "e"  # type: ignore[arg-type]
    assert client.calls == 3


def test_transient_errors_end_after_the_last_attempt() -> None:
    client = Failing(*[answer(503)] * 99)
    with pytest.raises(TransientError, match="stat s3://raw/k: the store answered 503"):
        ObjectStore(client).stat("raw", "k")  # type: ignore[arg-type]
    assert client.calls == retry.ATTEMPTS


@pytest.mark.parametrize("error", [answer(403, "AccessDenied"), answer(400, "InvalidArgument"), answer(404)])
def test_permanent_errors_are_never_tried_again(error: Exception) -> None:
    client = Failing(error)
    with pytest.raises(PermanentError):
        ObjectStore(client).stat("raw", "k")  # type: ignore[arg-type]
    assert client.calls == 1


def test_without_a_store_the_settings_to_make_are_named(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="DROPFLOW_S3_ENDPOINT"):
        connect(settings.model_copy(update={"s3_endpoint": None}))


def receipt(**changes: Any) -> Receipt:
    fields = {"dataset": "churn", "bucket": "raw", "key": REF.key, "etag": REF.etag, "fingerprint": "f1"}
    return Receipt(**{**fields, "fate": "processed", **changes})


def test_one_receipt_per_object_and_fingerprint(store: ObjectStore, churn: Dataset) -> None:
    first, second = receipt(flow_run_id="1"), receipt(flow_run_id="2")
    assert commit_receipt(store, churn, first, replace=False) is True
    assert commit_receipt(store, churn, second, replace=False) is False
    assert read_receipt(store, churn, REF, "f1") == first
    assert commit_receipt(store, churn, first, replace=False) is True, "its own lost answer"
    assert commit_receipt(store, churn, second, replace=True) is True
    assert read_receipt(store, churn, REF, "f1") == second


def test_receipts_are_found_by_object_and_recipe(store: ObjectStore, churn: Dataset) -> None:
    assert read_receipt(store, churn, REF) is None
    old, new = receipt(fingerprint="f1"), receipt(fingerprint="f2")
    commit_receipt(store, churn, old, replace=False)
    commit_receipt(store, churn, new, replace=False)
    assert read_receipt(store, churn, REF, "f1") == old
    assert read_receipt(store, churn, REF) == new
    assert read_receipt(store, churn, ObjectRef("raw", REF.key, "etag")) is None
    assert read_receipt(store, churn, ObjectRef("raw", REF.key, "other")) is None


def test_a_receipt_key_always_fits(churn: Dataset) -> None:
    longest = ObjectRef("raw", "churn/" + "ü" * 500 + ".csv", "e" * 40)
    assert len(receipt_key(churn, longest, "f" * 16).encode()) <= 1024
    other = ObjectRef("raw", "churn/" + "ü" * 499 + "x.csv", "e" * 40)
    assert receipt_key(churn, longest, "f") != receipt_key(churn, other, "f")


def test_an_unreadable_receipt_is_named(store: ObjectStore, churn: Dataset) -> None:
    key = receipt_key(churn, REF, "f1")
    store.put("processed", key, b"{", "application/json")
    with pytest.raises(ReceiptError, match="is no receipt: delete it"):
        read_receipt(store, churn, REF)
