"""Receipts: what became of one object under one fingerprint, written once with a conditional PUT."""

import hashlib
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dropflow.datasets import Dataset
from dropflow.errors import AlreadyExistsError, ObjectMissingError, ReceiptError
from dropflow.objects import ObjectRef
from dropflow.storage import ObjectStore

PREFIX = "_receipts/"
LONGEST_FOLDER = 880
"""Bytes of key a receipt's folder may take: S3 allows 1,024 in all."""


class StepDone(BaseModel):
    """What one step did, in words, and how long it took."""

    model_config = ConfigDict(frozen=True)

    name: str
    detail: str
    seconds: float


class Receipt(BaseModel):
    """The recorded outcome of preparing one object. Times are UTC."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    bucket: str
    key: str
    etag: str
    fingerprint: str
    fate: Literal["processed", "rejected"]
    reason: str = ""
    output_bucket: str = ""
    output_key: str = ""
    output_etag: str = ""
    rows_in: int | None = None
    rows_out: int | None = None
    steps: tuple[StepDone, ...] = ()
    flow_run_id: str = ""
    written_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def output_url(self) -> str:
        return f"s3://{self.output_bucket}/{self.output_key}" if self.output_key else ""


def _folder(dataset: Dataset, key: str) -> str:
    folder = f"{PREFIX}{dataset.name}/{key}/"
    if len(folder.encode()) > LONGEST_FOLDER:
        return f"{PREFIX}{dataset.name}/~{hashlib.sha256(key.encode()).hexdigest()}/"
    return folder


def receipt_key(dataset: Dataset, ref: ObjectRef, fingerprint: str) -> str:
    return f"{_folder(dataset, ref.key)}{ref.etag}.{fingerprint}.json"


def read_receipt(
    store: ObjectStore, dataset: Dataset, ref: ObjectRef, fingerprint: str | None = None
) -> Receipt | None:
    """The receipt of this very object, or None; without a fingerprint, the latest under any recipe.

    Raises ReceiptError when the stored receipt cannot be read.
    """
    name = f"{ref.etag}.{fingerprint}.json" if fingerprint else f"{ref.etag}."
    prefix = _folder(dataset, ref.key) + name
    found = [_load(store, dataset.output_bucket, r.key) for r in store.list(dataset.output_bucket, prefix)]
    return max(found, key=lambda receipt: receipt.written_at, default=None)


def standing_receipt(
    store: ObjectStore, dataset: Dataset, ref: ObjectRef, fingerprint: str | None = None
) -> Receipt | None:
    """The receipt, if what it tells of still stands.

    All versions of a key and all recipes share one output: after bytes A, then B, then A again, the
    first receipt of A tells of an output that B has replaced since.
    """
    receipt = read_receipt(store, dataset, ref, fingerprint)
    if receipt is None or not receipt.output_key:
        return receipt
    try:
        output = store.stat(receipt.output_bucket, receipt.output_key)
    except ObjectMissingError:
        return None
    return receipt if output.etag == receipt.output_etag else None


def _load(store: ObjectStore, bucket: str, key: str) -> Receipt:
    _, body = store.get(bucket, key)
    try:
        return Receipt.model_validate_json(body)
    except ValidationError as error:
        raise ReceiptError(f"s3://{bucket}/{key} is no receipt: delete it and replay") from error


def commit_receipt(store: ObjectStore, dataset: Dataset, receipt: Receipt, *, replace: bool) -> bool:
    """Write the receipt; False when another run already wrote one. `replace` overwrites it."""
    ref = ObjectRef(receipt.bucket, receipt.key, receipt.etag)
    key = receipt_key(dataset, ref, receipt.fingerprint)
    body = receipt.model_dump_json(indent=1).encode()
    if replace:
        store.put(dataset.output_bucket, key, body, "application/json")
        return True
    try:
        store.create(dataset.output_bucket, key, body, "application/json")
    except AlreadyExistsError:
        # Ours after all, when only the answer to a first attempt was lost.
        return _load(store, dataset.output_bucket, key) == receipt
    return True
