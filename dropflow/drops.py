"""Drop a file: upload it into a dataset's folder and wait for what becomes of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dropflow.datasets import Dataset
from dropflow.errors import SettingsError, TransientError
from dropflow.ledger.entries import paused_reason
from dropflow.objects import ObjectRef
from dropflow.prefect_api import PERMANENT, PrefectApi, Run
from dropflow.receipts import Receipt, standing_receipt
from dropflow.storage import ObjectStore

RECEIPT_POLL = 0.1
RUN_POLL = 2.0
"""Seconds between two questions to Prefect whether the run has failed."""


@dataclass(frozen=True)
class Drop:
    """An uploaded file. `repeated`: the same bytes had a receipt before."""

    path: Path
    ref: ObjectRef
    repeated: Receipt | None
    started: datetime


@dataclass(frozen=True)
class Outcome:
    """What became of a drop; `fate` is processed, rejected, failed, or pending when time ran out."""

    drop: Drop
    fate: str
    reason: str
    seconds: float
    receipt: Receipt | None = None
    flow_run_id: str = ""


def target_key(dataset: Dataset, path: Path, key: str | None) -> str:
    """Where the file goes. Raises SettingsError when the dataset would not pick it up there."""
    key = key or dataset.prefix + path.name
    if "\\" in key or {"", ".", ".."} & set(key.split("/")):
        # Stores refuse or rewrite such keys, and then nobody finds the object under its own name.
        raise SettingsError(
            f"{path}: the key {key!r} has a backslash or an empty, . or .. part; give another"
        )
    if not dataset.matches(dataset.bucket, key):
        raise SettingsError(
            f"{path}: as {dataset.bucket}/{key} it would not belong to the dataset {dataset.name!r}, "
            f"which takes {dataset.match}; rename it or give another --key"
        )
    return key


def upload(
    store: ObjectStore, dataset: Dataset, path: Path, key: str, progress: Callable[[int], None]
) -> Drop:
    """Upload the file; `progress` is called with bytes sent since its last call."""
    started = datetime.now(UTC)
    ref = store.upload(path, dataset.bucket, key, progress)
    repeated = standing_receipt(store, dataset, ref)
    if repeated and repeated.written_at > started:
        repeated = None
    return Drop(path, ref, repeated, started)


def wait(store: ObjectStore, prefect: PrefectApi, dataset: Dataset, drop: Drop, seconds: float) -> Outcome:
    """Wait up to `seconds` for the receipt, or for a run that ended badly without one."""
    begun = time.monotonic()
    ask_prefect = begun + RUN_POLL
    while (now := time.monotonic()) - begun < seconds:
        receipt = standing_receipt(store, dataset, drop.ref)
        if receipt:
            return Outcome(drop, receipt.fate, receipt.reason, now - begun, receipt, receipt.flow_run_id)
        if now > ask_prefect:
            ask_prefect = now + RUN_POLL
            runs = prefect.runs_of(dataset.name, drop.started - timedelta(seconds=1))
            if run := _failed_run(runs, drop):
                return Outcome(drop, "failed", run.message, now - begun, flow_run_id=run.id)
            if not any(drop.ref.key in run.keys for run in runs) and _is_paused(prefect, dataset):
                return Outcome(drop, "pending", paused_reason(dataset.name), now - begun)
        time.sleep(RECEIPT_POLL)
    reason = f"no receipt after {seconds:g} s; it may still come: see `dropflow status` and the Prefect UI"
    return Outcome(drop, "pending", reason, seconds)


def _is_paused(prefect: PrefectApi, dataset: Dataset) -> bool:
    try:
        return dataset.name in prefect.paused()
    except TransientError:
        return False


def _failed_run(runs: list[Run], drop: Drop) -> Run | None:
    """A run of this object alone, since the drop, that failed for good.

    One that crashed or was interrupted is no end: the listener delivers the object again.
    """
    mine = (run for run in runs if run.keys == {drop.ref.key} and run.ended)
    last = max(mine, key=lambda run: run.since, default=None)
    return last if last and last.state in PERMANENT else None
