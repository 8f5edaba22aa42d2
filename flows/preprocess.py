"""The preprocess flow: raw objects in, prepared Parquet, a receipt and a readable state out."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from prefect import flow, get_client, get_run_logger, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from dropflow.datasets import Dataset, load_datasets
from dropflow.errors import DropflowError, ReceiptError, RejectedError
from dropflow.objects import ObjectRef, printable
from dropflow.prefect_api import key_tag
from dropflow.receipts import Receipt, StepDone, standing_receipt
from dropflow.settings import load_settings
from dropflow.storage import ObjectStore, connect
from flows import steps, tasks

MOST_TAGS = 20
MOST_TOLD = 10
Result = Literal["processed", "rejected", "cached", "duplicate", "failed"]
SEVERITY: tuple[Result, ...] = ("failed", "rejected", "processed", "duplicate", "cached")
STATE_NAMES: dict[Result, str] = {
    "failed": "Failed",
    "rejected": "Rejected",
    "processed": "Completed",
    "duplicate": "Duplicate",
    "cached": "Cached",
}
NumericImputation = Literal["as declared", "mean", "median", "most_frequent"]


@dataclass(frozen=True)
class Outcome:
    """What this run did, or found done, for one key."""

    result: Result
    message: str


def run_name() -> str:
    """`churn · 2026-11.csv`, or `churn · 12 files`."""
    parameters = runtime.flow_run.parameters
    keys = parameters.get("keys") or []
    what = "all without a receipt" if not keys else f"{len(keys)} files"
    if len(keys) == 1:
        what = printable(str(keys[0]).rpartition("/")[2])
    return f"{parameters['dataset']} · {what}"


@flow(name="preprocess", flow_run_name=run_name)
def preprocess(
    dataset: str,
    keys: list[str] = [],  # noqa: B006 - never changed, and None makes a worse form in the UI
    force: bool = False,
    numeric_imputation: NumericImputation = "as declared",
) -> State[Any]:
    """Prepare raw objects of one dataset: validate, impute, encode, scale, write Parquet.

    A rejected object makes the run red with the reason; it never stops the other objects.

    Args:
        dataset: The dataset; leave as it is.
        keys: Object keys in the dataset's bucket, one each. Empty: every object without a receipt.
        force: Prepare again although these bytes have a receipt under this recipe.
        numeric_imputation: How to fill gaps in numbers, instead of the way the dataset declares.
    """
    settings = load_settings()
    store = connect(settings)
    recipe = load_datasets(settings.datasets_dir)[dataset]
    if numeric_imputation != "as declared":
        recipe = steps.override_imputation(recipe, numeric_imputation)
    keys = keys or list(_without_receipt(store, recipe))
    _tag(recipe, keys)
    return _state([prepare(store, recipe, key, force) for key in keys])


def prepare(store: ObjectStore, dataset: Dataset, key: str, force: bool) -> Outcome:
    """Bring one object to its receipt. An error here is this object's alone."""
    name = f"s3://{printable(f'{dataset.bucket}/{key}', 200)}"
    try:
        result, message = _prepare(store, dataset, key, force)
    except DropflowError as error:
        result, message = "failed", str(error)
    except Exception as error:  # noqa: BLE001 - one object's failure must not stop the others
        # A file can trip any library below; the traceback goes to the run's log in the UI.
        get_run_logger().exception("Preparing %s failed", name)
        result, message = "failed", f"{type(error).__name__}: {error}"
    return Outcome(result, f"{name} {message}")


def _prepare(store: ObjectStore, dataset: Dataset, key: str, force: bool) -> tuple[Result, str]:
    fingerprint = steps.fingerprint(dataset)
    ref, known = tasks.check_receipt(store, dataset, key, fingerprint)
    if known and not force:
        return ("rejected" if known.fate == "rejected" else "cached"), _told(known)
    ref, content = tasks.read(store, ref)
    try:
        done = _transform(store, dataset, ref, content)
    except RejectedError as error:
        done = {"fate": "rejected", "reason": str(error)}
    receipt = Receipt(
        dataset=dataset.name,
        bucket=ref.bucket,
        key=ref.key,
        etag=ref.etag,
        fingerprint=fingerprint,
        flow_run_id=str(runtime.flow_run.id),
        **done,
    )
    if not tasks.commit(store, dataset, receipt, replace=force):
        return "duplicate", "was prepared by another run at the same time"
    return receipt.fate, _told(receipt)


def _transform(store: ObjectStore, dataset: Dataset, ref: ObjectRef, content: bytes) -> dict[str, Any]:
    """Validate, run every step, write the output; the receipt's fields that this decides."""
    frame = tasks.validate(content, dataset)
    rows_in = len(frame)
    done = []
    for step in dataset.steps:
        started = time.perf_counter()
        frame, detail = tasks.titled(step)(frame, step, dataset)
        seconds = round(time.perf_counter() - started, 4)
        done.append(StepDone(name=step.kind, detail=detail, seconds=seconds))
    output = tasks.write(store, frame, dataset, ref.key)
    return {
        "fate": "processed",
        "output_bucket": output.bucket,
        "output_key": output.key,
        "output_etag": output.etag,
        "rows_in": rows_in,
        "rows_out": len(frame),
        "steps": tuple(done),
    }


def _told(receipt: Receipt) -> str:
    if receipt.fate == "rejected":
        return receipt.reason
    return f"{receipt.rows_in:,} rows in, {receipt.rows_out:,} out: {receipt.output_url}"


def _without_receipt(store: ObjectStore, dataset: Dataset) -> Iterator[str]:
    for ref in store.list(dataset.bucket, dataset.prefix):
        if dataset.matches(ref.bucket, ref.key) and not _settled(store, dataset, ref):
            yield ref.key


def _settled(store: ObjectStore, dataset: Dataset, ref: ObjectRef) -> bool:
    try:
        return standing_receipt(store, dataset, ref) is not None
    except ReceiptError:
        return False  # preparing it tells what is wrong with its receipt, and stops no other


def _tag(dataset: Dataset, keys: list[str]) -> None:
    """Tag the run, so that the UI and `dropflow drop` find it by dataset and key."""
    found = [f"dataset:{dataset.name}", *(key_tag(key) for key in keys[:MOST_TAGS])]
    tags = list(dict.fromkeys([*runtime.flow_run.tags, *found]))
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, tags=tags)


def _state(outcomes: list[Outcome]) -> State[Any]:
    """The worst outcome names the state; its message is what the notification carries."""
    if not outcomes:
        return Completed(message="Nothing to do: every object has a receipt.")
    count = Counter(outcome.result for outcome in outcomes)
    worst = next(result for result in SEVERITY if count[result])
    told = [outcome.message for outcome in outcomes if outcome.result == worst]
    message = "\n".join(told[:MOST_TOLD])
    if len(outcomes) > 1:
        message = ", ".join(f"{n} {result}" for result, n in count.items()) + f"\n{message}"
    state = Failed if worst in ("failed", "rejected") else Completed
    return state(name=STATE_NAMES[worst], message=message)
