"""The proof: compare the buckets with the ledger now, independently of what the listener believes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from dropflow.datasets import Dataset, Datasets
from dropflow.errors import ReceiptError
from dropflow.ledger import Entry, Fate, Ledger
from dropflow.objects import ObjectRef
from dropflow.receipts import find_orphan, object_prefix, receipt_prefix, receipt_prefixes
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
    without_output: int = 0
    objects_without_output: list[str] = field(default_factory=list)
    outputs: int = 0
    orphans: int = 0
    orphan_outputs: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.unaccounted or self.without_output or self.orphans)


def audit(
    store: ObjectStore,
    datasets: Datasets,
    ledger: Ledger,
    orphan_seconds: float = 0,
    tell: Callable[[int], None] = lambda _: None,
) -> Audit:
    """List everything and compare, a page in memory at a time; `tell` hears of objects done.

    An output younger than `orphan_seconds` may still get its receipt. Raises DropflowError.
    """
    done = Audit()
    with Seen() as receipts, Seen() as outputs:
        _list_receipts(store, datasets, receipts, done)
        _list_outputs(store, datasets, orphan_seconds, outputs, done)
        for bucket in datasets.raw_buckets:
            for page in pages(store, bucket, datasets.prefixes):
                known = ledger.lookup(bucket, [ref.key for ref in page])
                for ref in page:
                    _account(ref, known.get((ref.key, ref.etag)), datasets, receipts, done)
                    _check_output(known.get((ref.key, ref.etag)), store, outputs, done)
                tell(len(page))
    return done


def _list_receipts(store: ObjectStore, datasets: Datasets, receipts: Seen, done: Audit) -> None:
    for bucket in datasets.output_buckets:
        for page in pages(store, bucket, receipt_prefixes(datasets, bucket)):
            receipts.update(f"{bucket}/{object_prefix(receipt.key)}" for receipt in page)
            done.receipts += len(page)


def _list_outputs(
    store: ObjectStore, datasets: Datasets, orphan_seconds: float, outputs: Seen, done: Audit
) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for dataset in datasets.by_name.values():
            is_left = partial(_is_left_behind, store, dataset, orphan_seconds)
            for page in pages(store, dataset.output_bucket, [f"{dataset.name}/"]):
                outputs.update(output.identity for output in page)
                left = [output.url for output, yes in zip(page, pool.map(is_left, page), strict=True) if yes]
                done.outputs += len(page)
                done.orphans += len(left)
                done.orphan_outputs = [*done.orphan_outputs, *left][:MOST_SHOWN]


def _check_output(entry: Entry | None, store: ObjectStore, outputs: Seen, done: Audit) -> None:
    """What the ledger calls processed must have the very output that it names."""
    if entry is None or entry.fate is not Fate.PROCESSED or not entry.output_key:
        return
    if entry.output.identity in outputs or store.is_current(entry.output):
        return  # the latter when it is younger than the listing
    done.without_output += 1
    done.objects_without_output = [*done.objects_without_output, entry.ref.url][:MOST_SHOWN]


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


def _is_left_behind(store: ObjectStore, dataset: Dataset, orphan_seconds: float, output: ObjectRef) -> bool:
    key = dataset.source_key(output.key)
    if key is None:
        return False
    try:
        return find_orphan(store, dataset, key, orphan_seconds) is not None
    except ReceiptError:
        return False
