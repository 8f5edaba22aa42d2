"""Receipts: what became of one object under one fingerprint, written once with a conditional PUT."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dropflow.datasets import Dataset, Datasets
from dropflow.errors import AlreadyExistsError, ObjectMissingError, ReceiptError, TransientError
from dropflow.objects import ObjectRef, printable
from dropflow.quality import Figures, Quality, StepDone
from dropflow.storage import ABSENT, ObjectStore, Stat

PREFIX = "_receipts/"
QUARANTINE, REPORTS = COMPANIONS = ("_quarantine/", "_reports/")
"""What is kept beside an output: rows set aside, and the quality report."""
LONGEST_FOLDER = 880
"""Bytes of key a receipt's folder may take: S3 allows 1,024 in all."""
SOURCE, FINGERPRINT, RUN = "source-etag", "fingerprint", "flow-run"
"""Metadata of every output: which bytes, prepared how and by whom, it comes from."""
MOST_RACES = 10
"""Attempts of a conditional write that others keep winning."""


class Receipt(BaseModel):
    """The recorded outcome of preparing one object. Times are UTC."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

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
    quarantined: int = 0
    """Rows set aside because they break the contract; they are in `quarantine_key`."""
    filtered: int = 0
    quarantine_key: str = ""
    report_key: str = ""
    """The report as a page, of earlier versions."""
    figures: Figures | None = None
    """What the report is made of, with the rest."""
    preprocessor: str = ""
    """Version of the stored one that was applied; "" where the file was fitted on its own."""
    warnings: tuple[str, ...] = ()
    steps: tuple[StepDone, ...] = ()
    flow_run_id: str = ""
    written_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def output(self) -> ObjectRef:
        """Without a key when there is none."""
        return ObjectRef(self.output_bucket, self.output_key, self.output_etag)

    @property
    def summary(self) -> str:
        """Rows in and out: in = out + quarantined + filtered."""
        told = f"{self.rows_in or 0:,} rows in, {self.rows_out or 0:,} out"
        told += f", {self.quarantined:,} quarantined" if self.quarantined else ""
        told += f", {self.filtered:,} filtered" if self.filtered else ""
        return "; ".join((told, *self.warnings))

    @property
    def output_url(self) -> str:
        return self.output.url if self.output_key else ""

    @property
    def quality(self) -> Quality | None:
        """What its report shows; None where there are no figures."""
        if self.figures is None:
            return None
        return Quality(
            dataset=self.dataset,
            url=ObjectRef(self.bucket, self.key).url,
            output_url=self.output_url,
            run_id=self.flow_run_id,
            rows_in=self.rows_in or 0,
            rows_out=self.rows_out or 0,
            filtered=self.filtered,
            steps=self.steps,
            warnings=self.warnings,
            preprocessor=self.preprocessor,
            quarantined=self.figures.quarantined,
            before=self.figures.before,
            after=self.figures.after,
            drift=self.figures.drift,
            seconds=self.figures.seconds,
        )

    def to_json(self) -> bytes:
        """A line for each field, and one for all figures."""
        text = self.model_dump_json(indent=1, exclude={"figures"})
        if self.figures:
            own = self.model_dump_json(include={"figures"})
            text = f"{text.removesuffix('}').rstrip()},\n {own[1:-1]}\n}}"
        return text.encode()


def _folder(dataset: Dataset, key: str, prefix: str = PREFIX) -> str:
    folder = f"{prefix}{dataset.name}/{key}/"
    if len(folder.encode()) > LONGEST_FOLDER:
        return f"{prefix}{dataset.name}/~{hashlib.sha256(key.encode()).hexdigest()}/"
    return folder


def receipt_key(dataset: Dataset, ref: ObjectRef, fingerprint: str) -> str:
    return f"{_folder(dataset, ref.key)}{ref.etag}.{fingerprint}.json"


def companion_key(prefix: str, dataset: Dataset, ref: ObjectRef, fingerprint: str, ending: str) -> str:
    """Where something else is kept that belongs to the same object and recipe as a receipt."""
    return f"{_folder(dataset, ref.key, prefix)}{ref.etag}.{fingerprint}.{ending}"


@dataclass(frozen=True, slots=True)
class ReceiptName:
    """What a receipt's key tells. `key` is "" where the raw key was too long to be part of it."""

    dataset: str
    key: str
    etag: str
    fingerprint: str


def parse_receipt_key(receipt_key: str) -> ReceiptName | None:
    """The inverse of `receipt_key`; None when it is no receipt's key."""
    folder, _, name = receipt_key.removeprefix(PREFIX).rpartition("/")
    dataset, _, key = folder.partition("/")
    etag, _, fingerprint = name.removesuffix(".json").rpartition(".")
    if not (receipt_key.startswith(PREFIX) and key and etag and fingerprint and name.endswith(".json")):
        return None
    return ReceiptName(dataset, "" if key.startswith("~") else key, etag, fingerprint)


def receipt_prefixes(datasets: Datasets, bucket: str) -> list[str]:
    """Below which the bucket has receipts of these datasets: others may put theirs there as well."""
    return [f"{PREFIX}{one.name}/" for one in datasets.by_name.values() if one.output_bucket == bucket]


def object_prefix(receipt_key: str) -> str:
    """A receipt's key without its fingerprint: `receipt_prefix` of its object."""
    return receipt_key.removesuffix(".json").rpartition(".")[0] + "."


def receipt_prefix(dataset: Dataset, ref: ObjectRef) -> str:
    """What the keys of the object's receipts, under any recipe, start with."""
    return f"{_folder(dataset, ref.key)}{ref.etag}."


def read_receipt(
    store: ObjectStore, dataset: Dataset, ref: ObjectRef, fingerprint: str | None = None
) -> Receipt | None:
    """The receipt of this very object, or None; without a fingerprint, the latest under any recipe.

    Raises ReceiptError when the stored receipt cannot be read.
    """
    bucket = dataset.output_bucket
    if fingerprint:
        try:
            return load_receipt(store, bucket, receipt_key(dataset, ref, fingerprint))[1]
        except ObjectMissingError:
            return None
    found = latest_receipt(store, dataset, ref)
    return found[1] if found else None


def latest_receipt(store: ObjectStore, dataset: Dataset, ref: ObjectRef) -> tuple[ObjectRef, Receipt] | None:
    """The object's last written receipt under any recipe, with its own reference. Raises ReceiptError."""
    bucket = dataset.output_bucket
    prefix = receipt_prefix(dataset, ref)
    # A key may go on where this one ends: churn/a.csv, and churn/a.csv/<its etag>.csv.
    names = [r.key for r in store.list(bucket, prefix) if "/" not in r.key.removeprefix(prefix)]
    found = [load_receipt(store, bucket, name) for name in names]
    # By the store's clock first: workers have their own.
    return max(found, key=lambda pair: (pair[0].modified, pair[1].written_at), default=None)


def standing_receipt(
    store: ObjectStore, dataset: Dataset, ref: ObjectRef, fingerprint: str | None = None
) -> Receipt | None:
    """The receipt, if what it tells of still stands.

    All versions of a key and all recipes share one output: after bytes A, then B, then A again, the
    first receipt of A tells of an output that B has replaced since.
    """
    receipt = read_receipt(store, dataset, ref, fingerprint)
    return receipt if receipt and stands(store, receipt) else None


def stands(store: ObjectStore, receipt: Receipt) -> bool:
    """Whether the receipt's output, if it has one, is the one that is there now."""
    return not receipt.output_key or store.is_current(receipt.output)


def load_receipt(store: ObjectStore, bucket: str, key: str) -> tuple[ObjectRef, Receipt]:
    """A receipt by its own key. Raises ObjectMissingError or ReceiptError."""
    ref, body = store.get(bucket, key)
    try:
        return ref, Receipt.model_validate_json(body)
    except ValidationError as error:
        raise ReceiptError(
            f"s3://{bucket}/{printable(key, 300)} is no receipt: delete it and replay"
        ) from error


def commit_receipt(store: ObjectStore, dataset: Dataset, receipt: Receipt, *, force: bool) -> bool:
    """Write the receipt: this is the commit. False when another run has committed the same before.

    One that tells of an output replaced since, or any with `force`, is overwritten.
    """
    ref = ObjectRef(receipt.bucket, receipt.key, receipt.etag)
    bucket, key = dataset.output_bucket, receipt_key(dataset, ref, receipt.fingerprint)
    body = receipt.to_json()
    instead_of = ABSENT
    for _ in range(MOST_RACES):
        try:
            store.put(bucket, key, body, "application/json", instead_of=instead_of)
        except AlreadyExistsError:
            try:
                there, other = load_receipt(store, bucket, key)
            except ObjectMissingError:
                continue
            if other == receipt:
                return True  # ours after all: only the answer to an earlier attempt was lost
            if not force and stands(store, other):
                return False
            instead_of = there.etag
        else:
            return True
    raise TransientError(f"the receipt of {ref.url} keeps changing: other runs write it, too")


def is_orphan(store: ObjectStore, dataset: Dataset, key: str, output: Stat) -> bool:
    """Whether no receipt tells of this output of the key. Files that are none of ours are no orphans."""
    source, fingerprint = output.metadata.get(SOURCE), output.metadata.get(FINGERPRINT)
    if not source or not fingerprint:
        return False
    receipt = read_receipt(store, dataset, ObjectRef(dataset.bucket, key, source), fingerprint)
    return receipt is None or receipt.output_etag != output.ref.etag


def find_orphan(store: ObjectStore, dataset: Dataset, key: str, older_than: float) -> ObjectRef | None:
    """The key's output, if no receipt tells of it and it is older than that many seconds.

    A younger one may be about to get its receipt. Raises ReceiptError.
    """
    try:
        there = store.head(dataset.output_bucket, dataset.output_key(key))
    except ObjectMissingError:
        return None
    return there.ref if there.age >= older_than and is_orphan(store, dataset, key, there) else None
