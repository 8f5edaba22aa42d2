"""One object from raw bytes to its receipt. No Prefect here: `stage` decides how each stage is run."""

import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from dropflow.crashpoints import Point, reached
from dropflow.datasets import Dataset
from dropflow.errors import DropflowError, ObjectMissingError, RejectedError, TransientError
from dropflow.objects import ObjectRef, printable
from dropflow.receipts import Receipt, StepDone, commit_receipt, standing_receipt
from dropflow.storage import ObjectStore
from flows import contract, reading, steps
from flows.outputs import publish, remove_orphan

Result = Literal["processed", "rejected", "cached", "duplicate", "failed", "interrupted", "missing"]
Stage = Callable[..., Any]
"""Called as stage(title, function, *arguments); returns what the function does."""


def plainly(_title: str, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


@dataclass(frozen=True)
class Prepared:
    """What was done, or found done, for one key."""

    key: str
    result: Result
    message: str


@dataclass(frozen=True)
class Preparation:
    """How the objects of one run are prepared."""

    store: ObjectStore
    dataset: Dataset
    run_id: str
    force: bool = False
    orphan_seconds: float = 600
    stage: Stage = plainly
    log: logging.Logger | logging.LoggerAdapter[logging.Logger] = field(
        default_factory=lambda: logging.getLogger(__name__)
    )
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", steps.fingerprint(self.dataset))

    def prepare(self, key: str) -> Prepared:
        """Bring one object to its receipt. An error here is this object's alone."""
        name = f"s3://{printable(f'{self.dataset.bucket}/{key}', 200)}"
        try:
            result, message = self._prepare(key)
        except TransientError as error:
            result, message = "interrupted", f"{error}; it is tried again"
        except ObjectMissingError as error:
            result, message = "missing", self._gone(key, str(error))
        except DropflowError as error:
            result, message = "failed", str(error)
        except Exception as error:
            # A file can trip any library below; the traceback goes to the run's log in the UI.
            self.log.exception("Preparing %s failed", name)
            result, message = "failed", f"{type(error).__name__}: {error}"
        return Prepared(key, result, f"{name} {message}")

    def _prepare(self, key: str) -> tuple[Result, str]:
        ref, known = self.stage(
            "check receipt", check_receipt, self.store, self.dataset, key, self.fingerprint
        )
        if known and not self.force:
            if known.fate == "processed":
                return "cached", _told(known)
            # What stands there is of other bytes: theirs, or left behind by an interrupted run.
            remove_orphan(self.store, self.dataset, key, self.orphan_seconds)
            return "rejected", _told(known)
        ref, content = self.stage("read", read, self.store, ref)
        done: dict[str, Any] | None
        try:
            done = self._transform(ref, content)
        except RejectedError as error:
            remove_orphan(self.store, self.dataset, key, self.orphan_seconds)
            done = {"fate": "rejected", "reason": str(error)}
        if done is None:
            return "duplicate", "was overwritten while it was prepared: its new content gets a run of its own"
        receipt = Receipt(
            dataset=self.dataset.name,
            bucket=ref.bucket,
            key=ref.key,
            etag=ref.etag,
            fingerprint=self.fingerprint,
            flow_run_id=self.run_id,
            **done,
        )
        if not self.stage("commit", commit, self.store, self.dataset, receipt, self.force):
            return "duplicate", "was prepared by another run at the same time"
        return receipt.fate, _told(receipt)

    def _transform(self, ref: ObjectRef, content: bytes) -> dict[str, Any] | None:
        """Validate, run every step, write the output; the receipt's fields that this decides.

        None when the object was overwritten meanwhile.
        """
        frame = self.stage("validate", validate, content, self.dataset)
        rows_in = len(frame)
        done = []
        for step in self.dataset.steps:
            started = time.perf_counter()
            title = f"{step.kind} {printable(', '.join(step.columns), 80)}"
            frame, detail = self.stage(title, steps.apply, frame, step, self.dataset)
            seconds = round(time.perf_counter() - started, 4)
            done.append(StepDone(name=step.kind, detail=detail, seconds=seconds))
        target = (self.store, self.dataset, ref, self.fingerprint, self.run_id)
        output = self.stage("write", write, frame, *target, self.force)
        if output is None:
            return None
        return {
            "fate": "processed",
            "output_bucket": output.bucket,
            "output_key": output.key,
            "output_etag": output.etag,
            "rows_in": rows_in,
            "rows_out": len(frame),
            "steps": tuple(done),
        }

    def _gone(self, key: str, message: str) -> str:
        if remove_orphan(self.store, self.dataset, key, self.orphan_seconds):
            return f"{message}; removed the output that an interrupted run had left"
        return message


def check_receipt(
    store: ObjectStore, dataset: Dataset, key: str, fingerprint: str
) -> tuple[ObjectRef, Receipt | None]:
    """The object as it is now, and its receipt under this recipe if one stands."""
    ref = store.stat(dataset.bucket, key)
    return ref, standing_receipt(store, dataset, ref, fingerprint)


def read(store: ObjectStore, ref: ObjectRef) -> tuple[ObjectRef, bytes]:
    """Read an object; the reference returned is of the bytes read, should it be overwritten now."""
    return store.get(ref.bucket, ref.key)


def validate(content: bytes, dataset: Dataset) -> pd.DataFrame:
    """The content as a frame that keeps the dataset's contract. Raises RejectedError."""
    numbers = [name for name, column in dataset.columns.items() if column.type == "number"]
    return contract.validate(reading.read_csv(content, numbers), dataset)


def write(
    frame: pd.DataFrame,
    store: ObjectStore,
    dataset: Dataset,
    ref: ObjectRef,
    fingerprint: str,
    run_id: str,
    force: bool,
) -> ObjectRef | None:
    """The frame as the key's output, in Parquet; None when the object was overwritten meanwhile."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return publish(store, dataset, ref, fingerprint, run_id, buffer.getvalue(), force)


def commit(store: ObjectStore, dataset: Dataset, receipt: Receipt, force: bool) -> bool:
    """Commit the receipt; False when another run was first."""
    done = commit_receipt(store, dataset, receipt, force=force)
    reached(Point.RECEIPT_WRITTEN)
    return done


def _told(receipt: Receipt) -> str:
    if receipt.fate == "rejected":
        return receipt.reason
    return f"{receipt.rows_in:,} rows in, {receipt.rows_out:,} out: {receipt.output_url}"
