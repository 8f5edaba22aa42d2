"""Outputs: the one prepared object of a key, replaced only by compare-and-swap. No Prefect here.

A slow run of old bytes must not replace the output of newer ones, and two runs of the same bytes must
make one output. So a write names what it replaces, and the raw object is looked at before and after.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dropflow.crashpoints import Point, reached
from dropflow.datasets import Dataset
from dropflow.errors import AlreadyExistsError, ObjectMissingError, TransientError
from dropflow.objects import ObjectRef
from dropflow.receipts import (
    FINGERPRINT,
    MOST_RACES,
    QUARANTINE,
    RUN,
    SOURCE,
    companion_key,
    find_orphan,
)
from dropflow.storage import ABSENT, ObjectStore, Stat
from flows.encoding import CONTENT_TYPES, to_readable_csv


def publish(
    store: ObjectStore,
    dataset: Dataset,
    ref: ObjectRef,
    fingerprint: str,
    run_id: str,
    body: bytes | Path,
    force: bool,
) -> ObjectRef | None:
    """Write the output in one PUT; the output as it is there now.

    What another run has made of the same bytes by the same recipe is taken over, unless `force`. None
    when the raw object has been overwritten or deleted meanwhile. Raises TransientError.
    """
    bucket, key = dataset.output_bucket, dataset.output_key(ref.key)
    kind = CONTENT_TYPES[dataset.output.format]
    metadata = {SOURCE: ref.etag, FINGERPRINT: fingerprint, RUN: run_id}
    instead_of = ABSENT
    for _ in range(MOST_RACES):
        try:
            output = store.put(
                bucket,
                key,
                body,
                kind,
                metadata=metadata,
                instead_of=instead_of,
            )
        except AlreadyExistsError:
            there = _there(store, bucket, key)
            if there is None:
                instead_of = ABSENT
                continue
            if _same(there, metadata) and (not force or there.metadata.get(RUN) == run_id):
                return there.ref
            if not store.is_current(ref):
                return None
            instead_of = there.ref.etag
        else:
            reached(Point.OUTPUT_WRITTEN)
            # The bytes may have gone and come back while this run slept: then theirs was the right output.
            return output if instead_of == ABSENT or store.is_current(ref) else None
    raise TransientError(f"the output of {ref.url} keeps changing: other runs write it, too")


@dataclass(frozen=True)
class Quarantine:
    """Rows of one object that were set aside, kept beside its output.

    Named after bytes and recipe as the receipt is, which tells of them: written twice they are the same.
    """

    store: ObjectStore
    dataset: Dataset
    ref: ObjectRef
    fingerprint: str

    def keep(self, bad: pd.DataFrame) -> str:
        """Store the bad rows as CSV; the key, or "" when there is none."""
        return "" if bad.empty else self.keep_csv(to_readable_csv(bad))

    def keep_csv(self, body: bytes | Path) -> str:
        """Store the bad rows, as CSV already; the key."""
        key = companion_key(QUARANTINE, self.dataset, self.ref, self.fingerprint, "csv")
        self.store.put(self.dataset.output_bucket, key, body, "text/csv; charset=utf-8")
        return key


def remove_orphan(store: ObjectStore, dataset: Dataset, key: str, older_than: float) -> bool:
    """Remove the key's output if the run that wrote it never committed a receipt.

    One younger than `older_than` seconds may be about to get its receipt. Files that are none of ours
    are left alone.
    """
    orphan = find_orphan(store, dataset, key, older_than)
    if orphan is None:
        return False
    store.delete(orphan.bucket, orphan.key)
    reached(Point.ORPHAN_REMOVED)
    return True


def _there(store: ObjectStore, bucket: str, key: str) -> Stat | None:
    try:
        return store.head(bucket, key)
    except ObjectMissingError:
        return None


def _same(there: Stat, metadata: dict[str, str]) -> bool:
    return all(there.metadata.get(name) == metadata[name] for name in (SOURCE, FINGERPRINT))
