"""One object from raw bytes to its receipt. No Prefect here: `stage` decides how each stage is run."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import pandas as pd

from dropflow import tracing
from dropflow.crashpoints import Point, reached
from dropflow.datasets import Dataset, canary_prefix
from dropflow.errors import (
    AccessError,
    DropflowError,
    ObjectMissingError,
    RejectedError,
    TransientError,
)
from dropflow.logs import about
from dropflow.objects import ObjectRef, printable
from dropflow.quality import (
    MOST_DISTINCT,
    Figures,
    FrameProfile,
    Quality,
    kept_drift,
    kept_reasons,
)
from dropflow.receipts import Receipt, commit_receipt, standing_receipt
from dropflow.storage import ObjectStore, Opened
from flows import steps
from flows.encoding import encode
from flows.memory import rejecting_out_of_memory
from flows.outofcore import Done, OutOfCore, why_not
from flows.outputs import Quarantine, publish, remove_orphan
from flows.preprocessors import Preprocessor, save
from flows.profiles import profile
from flows.reading import can_be_streamed
from flows.reference import Reference
from flows.transformation import Stage, Transformation

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]
Made = dict[str, Any]
"""The fields of a receipt that preparing decides."""
Result = Literal["processed", "rejected", "cached", "duplicate", "failed", "interrupted", "missing"]


def plainly(_title: str, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def nobody(_quality: Quality) -> None:
    return None


@dataclass(frozen=True)
class Prepared:
    """What was done, or found done, for one key."""

    key: str
    result: Result
    message: str
    rows: int = 0

    @property
    def is_done(self) -> bool:
        """Whether its output stands."""
        return self.result in ("processed", "cached")


@dataclass(frozen=True)
class Preparation:
    """How the objects of one run are prepared. `told` hears of each one's quality."""

    store: ObjectStore
    dataset: Dataset
    run_id: str
    _: KW_ONLY
    force: bool = False
    refit: bool = False
    orphan_seconds: float = 600
    large_bytes: float = float("inf")
    """A larger object is prepared part by part, where that can be."""
    stage: Stage = plainly
    told: Callable[[Quality], None] = nobody
    log: Log = field(default_factory=lambda: logging.getLogger(__name__))
    reference: Reference = field(init=False)
    transformation: Transformation = field(init=False)
    _fingerprints: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage", tracing.staged(self.stage))
        reference = Reference(self.store, self.dataset, self._fit, refit=self.refit)
        object.__setattr__(self, "reference", reference)
        object.__setattr__(self, "transformation", Transformation(self.store, self.dataset, self.stage))

    def prepare(self, key: str) -> Prepared:
        """Bring one object to its receipt. An error here is this object's alone."""
        name = _name(self.dataset, key)
        with about(bucket=self.dataset.bucket, key=key, dataset=self.dataset.name, run_id=self.run_id):
            return self._prepared(key, name)

    def _prepared(self, key: str, name: str) -> Prepared:
        rows = 0
        result: Result
        try:
            result, message, rows = self._prepare(key)
        except (TransientError, AccessError) as error:
            result, message = "interrupted", f"{error}; it is tried again"
        except ObjectMissingError as error:
            result, message = "missing", self._gone(key, str(error))
        except DropflowError as error:
            result, message = "failed", str(error)
        except Exception as error:
            # A file can trip any library below; the traceback goes to the run's log in the UI.
            self.log.exception("Preparing %s failed", name)
            result, message = "failed", f"{type(error).__name__}: {error}"
        return Prepared(key, result, f"{name} {message}", rows)

    def _prepare(self, key: str) -> tuple[Result, str, int]:
        began = time.time_ns()
        preprocessor = self._preprocessor(key)
        fingerprint = self._fingerprint(preprocessor.card.sha256 if preprocessor else "")
        found = self.stage("check receipt", check_receipt, self.store, self.dataset, key, fingerprint)
        own = {"dataset": self.dataset.name, "run_id": self.run_id}
        with closing(found.opened), tracing.span("preparation", found.opened.ref, began, **own):
            return self._prepare_opened(found.opened, found.receipt, fingerprint, preprocessor)

    def _fingerprint(self, preprocessor: str) -> str:
        """Reckoned once: it takes as long as writing a receipt."""
        if preprocessor not in self._fingerprints:
            self._fingerprints[preprocessor] = steps.fingerprint(self.dataset, preprocessor)
        return self._fingerprints[preprocessor]

    def _prepare_opened(
        self, opened: Opened, known: Receipt | None, fingerprint: str, preprocessor: Preprocessor | None
    ) -> tuple[Result, str, int]:
        ref, key = opened.ref, opened.ref.key
        if known and not self.force:
            if known.fate == "processed":
                return "cached", _told(known), 0
            # What stands there is of other bytes: theirs, or left behind by an interrupted run.
            remove_orphan(self.store, self.dataset, key, self.orphan_seconds)
            return "rejected", _told(known), 0
        done: Made | None
        try:
            with rejecting_out_of_memory():
                if self._is_large(ref, preprocessor):
                    # It is read in a way of its own, which takes long.
                    opened.close()
                    done = self._make_large(ref, fingerprint, preprocessor)
                else:
                    ref, content = self.stage("read", read, self.store, opened)
                    done = self._make(ref, content, fingerprint, preprocessor)
        except RejectedError as error:
            remove_orphan(self.store, self.dataset, key, self.orphan_seconds)
            done = {"fate": "rejected", "reason": str(error)}
        if done is None:
            message = "was overwritten while it was prepared: its new content gets a run of its own"
            return "duplicate", message, 0
        receipt = Receipt(
            dataset=self.dataset.name,
            bucket=ref.bucket,
            key=ref.key,
            etag=ref.etag,
            fingerprint=fingerprint,
            flow_run_id=self.run_id,
            **done,
        )
        if not self.stage("commit", commit, self.store, self.dataset, receipt, self.force):
            return "duplicate", "was prepared by another run at the same time", 0
        if quality := receipt.quality:
            # Once all is done: Prefect takes its time to show it.
            self.told(quality)
        return receipt.fate, _told(receipt), receipt.rows_out or 0

    def _preprocessor(self, key: str) -> Preprocessor | None:
        """The stored preprocessor to use; None to fit the object on its own.

        An object that is to be the first reference and cannot be fitted on is rejected as any other.
        """
        if self.dataset.fit.mode == "each":
            return None
        if key.startswith(canary_prefix(self.dataset)) and not self.reference.exists():
            # It will be deleted, and is no file of the kind that others are to be like.
            return None
        try:
            return self.reference.preprocessor(ObjectRef(self.dataset.bucket, key))
        except RejectedError:
            return None

    def _fit(self, ref: ObjectRef) -> Preprocessor:
        """A new version of the preprocessor, fitted on this object."""
        with rejecting_out_of_memory():
            ref, content = self.stage("read", self.store.get, ref.bucket, ref.key)
            learnt = self.transformation.learn(ref, content)
        facts = {"rows": learnt.rows, "reference": learnt.reference, "run_id": self.run_id}
        place = {"bucket": ref.bucket, "key": ref.key, "etag": ref.etag}
        made = save(self.store, self.dataset, learnt.fitted, another=self.refit, **place, **facts)
        name = _name(self.dataset, ref.key)
        self.log.info("preprocessor %s of %s was fitted on %s", made.card.label, self.dataset.name, name)
        return made

    def _make(
        self, ref: ObjectRef, content: bytes, fingerprint: str, preprocessor: Preprocessor | None
    ) -> Made | None:
        """Transform, write output and quarantine; None when the object was overwritten meanwhile."""
        started = time.perf_counter()
        made = self.transformation.transform(ref, content, preprocessor)
        target = (self.store, self.dataset, ref, fingerprint, self.run_id)
        after = profile(made.frame)
        output = self.stage("write", write, made.frame, after, *target, self.force)
        if output is None:
            return None
        quarantine = Quarantine(self.store, self.dataset, ref, fingerprint)
        figures = Figures(
            before=profile(made.checked.good),
            after=after,
            quarantined=kept_reasons(made.checked.reasons, made.checked.examples),
            drift=kept_drift(made.drift),
            seconds=time.perf_counter() - started,
        )
        return self._made(
            output,
            preprocessor,
            rows_in=made.raw_rows,
            rows_out=len(made.frame),
            quarantined=len(made.checked.bad),
            quarantine_key=quarantine.keep(made.checked.bad),
            filtered=made.filtered,
            steps=made.steps,
            warnings=made.warnings,
            figures=figures,
        )

    def _is_large(self, ref: ObjectRef, preprocessor: Preprocessor | None) -> bool:
        """Whether the object is to be prepared part by part. Says why not where it should."""
        if (ref.size or 0) <= self.large_bytes:
            return False
        reason = why_not(self.dataset, preprocessor is not None) or why_not_streamed(
            self.store, ref, self.dataset
        )
        if reason:
            name = _name(self.dataset, ref.key)
            self.log.warning("%s is large, and prepared in memory as a whole: %s", name, reason)
        return not reason

    def _make_large(self, ref: ObjectRef, fingerprint: str, preprocessor: Preprocessor | None) -> Made | None:
        """As `_make`, with what is in between on disk."""
        started = time.perf_counter()
        with TemporaryDirectory(prefix="dropflow-") as folder:
            work = OutOfCore(self.dataset, Path(folder), self.log.info)
            fitted = preprocessor.steps if preprocessor else None
            ref, made = self.stage("prepare part by part", prepare_parts, self.store, ref, work, fitted)
            target = (self.store, self.dataset, ref, fingerprint, self.run_id)
            output = self.stage("write", publish, *target, made.output, self.force)
            if output is None:
                return None
            quarantine = Quarantine(self.store, self.dataset, ref, fingerprint)
            spool = made.spool
            figures = Figures(
                before=made.before,
                after=made.after,
                quarantined=kept_reasons(spool.reasons, spool.examples),
                seconds=time.perf_counter() - started,
            )
            return self._made(
                output,
                preprocessor,
                rows_in=spool.rows,
                rows_out=made.rows,
                quarantined=spool.bad_rows,
                quarantine_key=quarantine.keep_csv(spool.quarantine) if spool.quarantine else "",
                filtered=spool.good_rows - made.rows,
                steps=made.steps,
                warnings=made.warnings,
                figures=figures,
            )

    def _made(self, output: ObjectRef, preprocessor: Preprocessor | None, **told: Any) -> Made:
        """`told`: the fields of a receipt that only the way of preparing knows."""
        return {
            "fate": "processed",
            "output_bucket": output.bucket,
            "output_key": output.key,
            "output_etag": output.etag,
            "preprocessor": preprocessor.card.label if preprocessor else "",
            **told,
        }

    def _gone(self, key: str, message: str) -> str:
        if remove_orphan(self.store, self.dataset, key, self.orphan_seconds):
            return f"{message}; removed the output that an interrupted run had left"
        return message


@dataclass(frozen=True)
class Work:
    """What is to be done with the objects of a run, as another process is told of it."""

    dataset: Dataset
    run_id: str
    force: bool = False
    refit: bool = False
    orphan_seconds: float = 600
    large_bytes: float = float("inf")

    def preparation(self, store: ObjectStore, **more: Any) -> Preparation:
        return Preparation(store, **vars(self), **more)

    def outcome(self, key: str, result: Result, why: str) -> Prepared:
        """Of an object that nobody could be asked to prepare, or that whoever was asked did not survive."""
        return Prepared(key, result, f"{_name(self.dataset, key)} {why}")


def _name(dataset: Dataset, key: str) -> str:
    return f"s3://{printable(f'{dataset.bucket}/{key}', 200)}"


class Found(NamedTuple):
    """An object as it is now, and its receipt under this recipe if one stands."""

    opened: Opened
    receipt: Receipt | None


def check_receipt(store: ObjectStore, dataset: Dataset, key: str, fingerprint: str) -> Found:
    """Open the object: with the answer its bytes are on their way, should it have no receipt."""
    opened = store.open(dataset.bucket, key)
    try:
        return Found(opened, standing_receipt(store, dataset, opened.ref, fingerprint))
    except BaseException:
        opened.close()
        raise


def read(store: ObjectStore, opened: Opened) -> tuple[ObjectRef, bytes]:
    """Read an object; the reference returned is of the bytes read, should they be read anew."""
    try:
        return opened.ref, opened.read()
    except TransientError:
        return store.get(opened.ref.bucket, opened.ref.key)


def why_not_streamed(store: ObjectStore, ref: ObjectRef, dataset: Dataset) -> str:
    """Why the object cannot be read in parts; "" where it can."""
    with closing(store.open(ref.bucket, ref.key)) as opened:
        beginning = next(opened.chunks(), b"")
    can_be = can_be_streamed(beginning, ref.key, dataset.read)
    return "" if can_be else "it is neither Parquet nor plain CSV in UTF-8 or 8 bits"


def prepare_parts(
    store: ObjectStore, ref: ObjectRef, work: OutOfCore, fitted: tuple[Any, ...] | None
) -> tuple[ObjectRef, Done]:
    """Prepare an object part by part; the reference returned is of the bytes read."""
    content = Content(store, store.stat(ref.bucket, ref.key))
    return content.ref, work.prepare(content, content.ref.size or 0, fitted)


@dataclass(frozen=True)
class Content:
    """The bytes of one version of an object, read as often as they are asked for. Raises TransientError."""

    store: ObjectStore
    ref: ObjectRef

    def __iter__(self) -> Iterator[bytes]:
        with closing(self.store.open(self.ref.bucket, self.ref.key)) as opened:
            if opened.ref.etag != self.ref.etag:
                raise TransientError(f"{self.ref.url} was overwritten while it was read")
            yield from opened.chunks()


def write(
    frame: pd.DataFrame,
    profiled: FrameProfile,
    store: ObjectStore,
    dataset: Dataset,
    ref: ObjectRef,
    fingerprint: str,
    run_id: str,
    force: bool,
) -> ObjectRef | None:
    """The frame as the key's output; None when the object was overwritten meanwhile."""
    various = {
        str(name)
        for name, column in zip(frame.columns, profiled.columns, strict=False)
        if column.kind == "number" and column.distinct > MOST_DISTINCT
    }
    body = encode(frame, dataset.output, various)
    return publish(store, dataset, ref, fingerprint, run_id, body, force)


def commit(store: ObjectStore, dataset: Dataset, receipt: Receipt, force: bool) -> bool:
    """Commit the receipt; False when another run was first."""
    done = commit_receipt(store, dataset, receipt, force=force)
    reached(Point.RECEIPT_WRITTEN)
    return done


def _told(receipt: Receipt) -> str:
    if receipt.fate == "rejected":
        return receipt.reason
    return f"{receipt.summary}: {printable(receipt.output_url, 300)}"
