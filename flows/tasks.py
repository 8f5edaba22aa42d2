"""Thin Prefect tasks around the steps: what is seen, timed and retried in the UI."""

import io
from typing import Any

import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from dropflow.datasets import Dataset, Step
from dropflow.errors import TransientError
from dropflow.objects import ObjectRef, printable
from dropflow.receipts import Receipt, commit_receipt, standing_receipt
from dropflow.storage import ObjectStore
from flows import contract, reading, steps

RETRIES = 3
RETRY_DELAYS = [1.0, 5.0, 20.0]
"""Seconds; storage calls have retried quickly by then, so these wait for a server to come back."""


async def _transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(await state.aresult(raise_on_failure=False), TransientError)


step = task(
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=_transient,
    # Frames are handed on in memory: hashing and storing them would cost more than the steps.
    cache_policy=NO_CACHE,
    persist_result=False,
)


@step
def check_receipt(
    store: ObjectStore, dataset: Dataset, key: str, fingerprint: str
) -> tuple[ObjectRef, Receipt | None]:
    """The object as it is now, and its receipt under this recipe if one stands."""
    ref = store.stat(dataset.bucket, key)
    return ref, standing_receipt(store, dataset, ref, fingerprint)


@step
def read(store: ObjectStore, ref: ObjectRef) -> tuple[ObjectRef, bytes]:
    """Read an object; the reference returned is of the bytes read, should it be overwritten now."""
    return store.get(ref.bucket, ref.key)


@step
def validate(content: bytes, dataset: Dataset) -> pd.DataFrame:
    """The content as a frame that keeps the dataset's contract. Raises RejectedError."""
    numbers = [name for name, column in dataset.columns.items() if column.type == "number"]
    return contract.validate(reading.read_csv(content, numbers), dataset)


@step
def apply(frame: pd.DataFrame, recipe_step: Step, dataset: Dataset) -> tuple[pd.DataFrame, str]:
    return steps.apply(frame, recipe_step, dataset)


@step
def write(store: ObjectStore, frame: pd.DataFrame, dataset: Dataset, key: str) -> ObjectRef:
    """Write the frame as Parquet in one PUT, so that nobody reads half of it."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    kind = "application/vnd.apache.parquet"
    return store.put(dataset.output_bucket, dataset.output_key(key), buffer.getvalue(), kind)


@step
def commit(store: ObjectStore, dataset: Dataset, receipt: Receipt, replace: bool) -> bool:
    """Commit the receipt; False when another run was first. One that no longer stands is replaced."""
    if commit_receipt(store, dataset, receipt, replace=replace):
        return True
    ref = ObjectRef(receipt.bucket, receipt.key, receipt.etag)
    if standing_receipt(store, dataset, ref, receipt.fingerprint):
        return False
    return commit_receipt(store, dataset, receipt, replace=True)


def titled(recipe_step: Step) -> Task[..., tuple[pd.DataFrame, str]]:
    """The apply task under the step's own name, as the UI shows it."""
    columns = printable(", ".join(recipe_step.columns), 80)
    return apply.with_options(name=recipe_step.kind, task_run_name=f"{recipe_step.kind} {columns}")
