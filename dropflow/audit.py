"""The proof: compare the buckets with the ledger now, independently of what the listener believes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dropflow.datasets import Dataset, Datasets
from dropflow.ledger import Entry, Fate, Ledger
from dropflow.objects import ObjectRef
from dropflow.receipts import PREFIX, is_orphan, object_prefix, receipt_prefix
from dropflow.seen import Seen
from dropflow.storage import ObjectStore, pages

AT_ONCE = 8
MOST_SHOWN = 20
WITHOUT_RECEIPT = (Fate.PENDING, Fate.DISPATCHED, Fate.IGNORED, Fate.FAILED)
"""Fates that need no receipt to be true."""


@dataclass
class Audit:
    """What was counted, and the first few of what should not be."""

    objects: int = 0
    receipts: int = 0
    with_receipt: int = 0
    by_ledger: dict[str, int] = field(default_factory=dict)
    unaccounted: int = 0
    unaccounted_objects: list[str] = field(default_factory=list)
    outputs: int = 0
    orphans: int = 0
    orphan_outputs: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.unaccounted or self.orphans)


def audit(
    store: ObjectStore, datasets: Datasets, ledger: Ledger, tell: Callable[[int], None] = lambda _: None
) -> Audit:
    """List everything and compare, a page in memory at a time; `tell` hears of objects done.

    Raises DropflowError.
    """
    done = Audit()
    with Seen() as receipts:
        for bucket in datasets.output_buckets:
            for page in pages(store.list(bucket, PREFIX)):
                receipts.update(f"{bucket}/{object_prefix(receipt.key)}" for receipt in page)
                done.receipts += len(page)
        for bucket in datasets.raw_buckets:
            for page in pages(store.list(bucket)):
                known = ledger.lookup(bucket, [ref.key for ref in page])
                for ref in page:
                    _account(ref, known.get((ref.key, ref.etag)), datasets, receipts, done)
                tell(len(page))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for dataset in datasets.by_name.values():
            for page in pages(store.list(dataset.output_bucket, f"{dataset.name}/")):
                done.outputs += len(page)
                checks = pool.map(lambda output, d=dataset: _is_orphan(store, d, output), page)
                for output, orphan in zip(page, checks, strict=True):
                    if orphan:
                        done.orphans += 1
                        done.orphan_outputs = [*done.orphan_outputs, output.url][:MOST_SHOWN]
    return done


def _account(ref: ObjectRef, entry: Entry | None, datasets: Datasets, receipts: Seen, done: Audit) -> None:
    done.objects += 1
    dataset, _ = datasets.find(ref.bucket, ref.key)
    if dataset and f"{dataset.output_bucket}/{receipt_prefix(dataset, ref)}" in receipts:
        done.with_receipt += 1
    elif entry and entry.fate in WITHOUT_RECEIPT:
        done.by_ledger[entry.fate.value] = done.by_ledger.get(entry.fate.value, 0) + 1
    else:
        done.unaccounted += 1
        done.unaccounted_objects = [*done.unaccounted_objects, ref.url][:MOST_SHOWN]


def _is_orphan(store: ObjectStore, dataset: Dataset, output: ObjectRef) -> bool:
    key = dataset.source_key(output.key)
    return key is not None and is_orphan(store, dataset, key, store.head(output.bucket, output.key))
