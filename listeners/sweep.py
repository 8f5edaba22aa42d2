"""The sweep: list the buckets, and make the ledger agree with what is there. The truth."""

import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from dropflow.clock import utc_now
from dropflow.datasets import Dataset, Datasets
from dropflow.errors import DropflowError, TransientError
from dropflow.ledger import Entry, Fate, Ledger, Settlement, SweepReport
from dropflow.logs import of
from dropflow.objects import ObjectCreated, ObjectRef, printable
from dropflow.receipts import (
    find_orphan,
    latest_receipt,
    object_prefix,
    parse_receipt_key,
    receipt_prefix,
    receipt_prefixes,
    stands,
)
from dropflow.seen import Seen
from dropflow.storage import ObjectStore, pages
from dropflow.unforeseen import Troubles, contained
from listeners.settler import Settler, outcome_of

log = logging.getLogger(__name__)

AT_ONCE = 8
REMEMBERED = timedelta(days=90)
"""How long stories and deliveries are kept."""
LEASE, LEASE_SECONDS = "sweep", 20.0
_EVER = datetime.min.replace(tzinfo=UTC)
ORPHAN_WAIT = 60.0
"""Seconds until a run is asked for again, which doubles."""
MOST_ORPHANS = 10_000
TOLD_AFTER = 2
"""Sweeps in a row that fail in a bucket before it is told: one may have met a store that is being started."""


class StoppedError(BaseException):
    """The listener is shutting down in the middle of a sweep. No trouble of what is being swept."""


@dataclass
class _Counts:
    objects: int = 0
    receipts: int = 0
    new: int = 0
    settled: int = 0
    reopened: int = 0
    orphans: int = 0
    unaccounted: int = 0


class Sweep:
    """Compares raw objects, receipts, outputs and ledger, a page of each in memory at a time."""

    def __init__(
        self,
        ledger: Ledger,
        datasets: Datasets,
        store: ObjectStore,
        settler: Settler,
        *,
        listener: str,
        orphan_seconds: float = 600,
        arrived: Callable[[], None] = lambda: None,
        orphan_found: Callable[[Dataset, ObjectRef], None] = lambda *_: None,
    ) -> None:
        """`arrived` is called when there are new objects, `orphan_found` with the key to prepare again."""
        self._ledger = ledger
        self._datasets = datasets
        self._store = store
        self._settler = settler
        self._listener = listener
        self._orphan_seconds = orphan_seconds
        self._arrived = arrived
        self._orphan_found = orphan_found
        self._outputs_since: dict[str, datetime] = {}
        self._in_trouble: Counter[str] = Counter()
        self._told_orphans: dict[tuple[str, str], tuple[float, float]] = {}
        self._leased = 0.0
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(AT_ONCE, "sweep")

    def close(self) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def once(self) -> SweepReport | None:
        """Sweep all buckets; None while another listener does.

        A bucket that cannot be swept is told of and named in the report; raises DropflowError where none can,
        and StoppedError.
        """
        if not self._ledger.watch.lease(LEASE, self._listener, LEASE_SECONDS):
            return None
        try:
            return self._sweep()
        finally:
            self._ledger.watch.release(LEASE, self._listener)

    def _sweep(self) -> SweepReport:
        started, clock = utc_now(), time.monotonic()
        counts, unlisted, unswept = _Counts(), Troubles(), Troubles()
        with _temporary_files(), Seen() as receipts, Seen() as outputs:
            for bucket in self._datasets.output_buckets:
                with unlisted.kept(bucket), _temporary_files():
                    self._receipts(bucket, receipts, counts)
                    self._outputs(bucket, outputs, counts)
            for bucket in self._datasets.raw_buckets:
                with unswept.kept(bucket), _temporary_files():
                    self._raw(bucket, receipts, outputs, unlisted.errors, counts)
        failed = unlisted.errors | unswept.errors
        if failed.keys() >= {*self._datasets.buckets}:
            raise next(reversed(failed.values()))
        self._look_since(started, unlisted.errors)
        self._tell_failed(failed)
        self._forget_orphans()
        self._ledger.prune(started - REMEMBERED)
        report = SweepReport(
            started=started,
            seconds=time.monotonic() - clock,
            unswept="\n".join(f"{bucket}: {error}" for bucket, error in failed.items()),
            **vars(counts),
        )
        self._ledger.watch.swept(report)
        level = logging.INFO if counts.new or counts.settled or counts.reopened else logging.DEBUG
        log.log(
            level,
            "swept %d objects in %.1f s: %d new, %d settled, %d reopened",
            *(counts.objects, report.seconds, counts.new, counts.settled, counts.reopened),
        )
        return report

    def _look_since(self, started: datetime, unlisted: Collection[str]) -> None:
        """From when on the next sweep looks at outputs closely."""
        for bucket in {*self._datasets.output_buckets} - {*unlisted}:
            since = started - timedelta(seconds=2 * self._orphan_seconds + 60)
            self._outputs_since[bucket] = since if bucket in self._outputs_since else _EVER

    def _tell_failed(self, failed: dict[str, DropflowError]) -> None:
        """Tell of each dataset in whose buckets several sweeps have failed, once while they go on to."""
        for dataset in self._datasets.by_name.values():
            error = failed.get(dataset.bucket) or failed.get(dataset.output_bucket)
            if error is None:
                del self._in_trouble[dataset.name]
                continue
            self._in_trouble[dataset.name] += 1
            if self._in_trouble[dataset.name] == TOLD_AFTER:
                place = ObjectRef(dataset.bucket, dataset.match.partition("/")[2])
                self._ledger.notices.tell(dataset.name, "waiting", place, f"is not swept: {error}")

    def _pages(self, bucket: str, prefixes: Iterable[str]) -> Iterator[list[ObjectRef]]:
        for page in pages(self._store, bucket, prefixes):
            if self._stopped.is_set():
                raise StoppedError
            if time.monotonic() - self._leased > LEASE_SECONDS / 4:
                self._ledger.watch.lease(LEASE, self._listener, LEASE_SECONDS)
                self._leased = time.monotonic()
            yield page

    def _receipts(self, bucket: str, receipts: Seen, counts: _Counts) -> None:
        """Note all receipts; read those that tell the ledger something new."""
        for page in self._pages(bucket, receipt_prefixes(self._datasets, bucket)):
            receipts.update(f"{bucket}/{object_prefix(receipt.key)}" for receipt in page)
            counts.receipts += len(page)
            last: dict[tuple[str, str, str], ObjectRef] = {}
            for own in page:
                name = parse_receipt_key(own.key)
                if name and name.key and name.dataset in self._datasets.by_name:
                    ref = (self._datasets.by_name[name.dataset].bucket, name.key, name.etag)
                    last[ref] = max(last.get(ref, own), own, key=_modified)
            told = []
            for raw in {bucket for bucket, _, _ in last}:
                entries = self._ledger.lookup(raw, [key for b, key, _ in last if b == raw])
                told += [
                    (bucket, last[raw, key, etag].key)
                    for (key, etag), entry in entries.items()
                    if (raw, key, etag) in last and _awaits(entry, last[raw, key, etag])
                ]
            counts.settled += self._settler.read(told) if told else 0

    def _outputs(self, bucket: str, outputs: Seen, counts: _Counts) -> None:
        """Note all outputs, and those that nothing explains."""
        for dataset in self._datasets.by_name.values():
            if dataset.output_bucket == bucket:
                for page in self._pages(bucket, [f"{dataset.name}/"]):
                    outputs.update(output.identity for output in page)
                    counts.orphans += self._count_orphans(dataset, page)

    def _raw(
        self, bucket: str, receipts: Seen, outputs: Seen, unlisted: Collection[str], counts: _Counts
    ) -> None:
        """Record every object; one with a receipt is settled as it is recorded.

        Where the output bucket is among the `unlisted`, nothing can be said about what lacks a receipt.
        """
        for page in self._pages(bucket, self._datasets.prefixes):
            known = self._ledger.lookup(bucket, [ref.key for ref in page])
            versions = Counter(key for key, _ in known)
            unsure: list[ObjectRef] = []
            with_receipt: list[tuple[Dataset, ObjectRef]] = []
            doubtful: list[tuple[Dataset, ObjectRef, Entry]] = []
            back: list[Entry] = []
            for ref, dataset in self._with_dataset(bucket, page, unlisted):
                entry = known.get((ref.key, ref.etag))
                if entry is None or versions[ref.key] > 1:
                    unsure.append(ref)
                if dataset is None:
                    continue
                has_receipt = f"{dataset.output_bucket}/{receipt_prefix(dataset, ref)}" in receipts
                if entry is None or (entry.fate is Fate.PENDING and not entry.after):
                    if has_receipt:
                        with_receipt.append((dataset, ref))
                elif entry.fate is Fate.IGNORED:
                    back.append(entry)
                elif _contradicts(entry, has_receipt, outputs):
                    doubtful.append((dataset, ref, entry))
            outcomes = [o for o in self._pool.map(partial(self._outcome, outputs), with_receipt) if o]
            new = self._ledger.record((ObjectCreated(ref, "sweep") for ref in unsure), outcomes)
            counts.objects += len(page)
            counts.settled += len(outcomes)
            counts.new += new
            counts.reopened += self._reopen(doubtful)
            counts.reopened += self._ledger.reopen(back, "it is in the bucket, and a dataset matches")
            recorded = self._ledger.lookup(bucket, [ref.key for ref in unsure]) if unsure else {}
            counts.unaccounted += sum((ref.key, ref.etag) not in recorded for ref in unsure)
            if new or back:
                self._arrived()

    def _with_dataset(
        self, bucket: str, page: list[ObjectRef], unlisted: Collection[str]
    ) -> Iterator[tuple[ObjectRef, Dataset | None]]:
        for ref in page:
            dataset, _ = self._datasets.find(bucket, ref.key)
            if dataset is None or dataset.output_bucket not in unlisted:
                yield ref, dataset

    def _outcome(self, outputs: Seen, found_with: tuple[Dataset, ObjectRef]) -> Settlement | None:
        """What the object's receipt tells, if its output is still there."""
        try:
            with contained(found_with[1].url):
                found = latest_receipt(self._store, *found_with)
                if found is None:
                    return None
                own, receipt = found
                if receipt.output.identity not in outputs and not stands(self._store, receipt):
                    return None
                return outcome_of(own, receipt)
        except DropflowError as error:
            log.warning("%s", error, extra=of(found_with[1]))
            return None

    def _reopen(self, doubtful: list[tuple[Dataset, ObjectRef, Entry]]) -> int:
        """What the ledger calls done must have receipt and output; some are younger than the listing."""
        lost = [e for dataset, ref, e in doubtful if self._is_undone(dataset, ref)]
        if lost:
            own = of(*(found.ref for found in lost))
            log.warning(
                "receipt or output of %d objects is gone: they are prepared again", len(lost), extra=own
            )
            self._ledger.reopen(lost, "its receipt or output is gone")
            self._arrived()
        return len(lost)

    def _is_undone(self, dataset: Dataset, ref: ObjectRef) -> bool:
        try:
            with contained(ref.url):
                found = latest_receipt(self._store, dataset, ref)
                if found and stands(self._store, found[1]):
                    return False
                return self._store.is_current(ref)
        except DropflowError as error:
            log.warning("%s", error, extra=of(ref))
            return False

    def _count_orphans(self, dataset: Dataset, page: list[ObjectRef]) -> int:
        """Outputs that a crashed run has left without a receipt.

        Only what has been written since the last sweep is looked at closely, and nothing in a first one:
        with a new ledger nothing explains any output yet.
        """
        since = self._outputs_since.get(dataset.output_bucket)
        old_enough = utc_now() - timedelta(seconds=self._orphan_seconds)
        recent = [o for o in page if since and (o.modified is None or since <= o.modified < old_enough)]
        explained = self._ledger.outputs([output.key for output in recent]) if recent else set()
        return sum(self._is_orphan(dataset, output) for output in recent if output.identity not in explained)

    def _is_orphan(self, dataset: Dataset, output: ObjectRef) -> bool:
        key = dataset.source_key(output.key)
        if key is None:
            return False
        try:
            with contained(output.url):
                orphan = find_orphan(self._store, dataset, key, self._orphan_seconds)
        except DropflowError as error:
            log.info("%s", error)
            return False
        if orphan:
            self._tell_orphan(dataset, key, orphan)
        return orphan is not None

    def _tell_orphan(self, dataset: Dataset, key: str, output: ObjectRef) -> None:
        """Ask for a run that removes it; again later and later, should none come."""
        now = time.monotonic()
        at, wait = self._told_orphans.get((output.url, output.etag), (0.0, ORPHAN_WAIT / 2))
        if now < at:
            return
        self._told_orphans[output.url, output.etag] = (now + 2 * wait, 2 * wait)
        ref = ObjectRef(dataset.bucket, key)
        log.warning(
            "an interrupted run has left %s without a receipt", printable(output.url, 300), extra=of(ref)
        )
        self._orphan_found(dataset, ref)

    def _forget_orphans(self) -> None:
        while len(self._told_orphans) > MOST_ORPHANS:
            del self._told_orphans[next(iter(self._told_orphans))]


@contextmanager
def _temporary_files() -> Iterator[None]:
    """Errors of what a sweep has seen, which is kept in a temporary file: a full disk, mostly."""
    try:
        yield
    except sqlite3.Error as error:
        raise TransientError(f"temporary files: {error}") from error


def _modified(ref: ObjectRef) -> datetime:
    return ref.modified or _EVER


def _contradicts(entry: Entry, has_receipt: bool, outputs: Seen) -> bool:
    """Whether the ledger calls an object done whose receipt or output the listings did not show."""
    if entry.fate not in (Fate.PROCESSED, Fate.REJECTED):
        return False
    return not has_receipt or bool(entry.output_key and entry.output.identity not in outputs)


def _awaits(entry: Entry, receipt: ObjectRef) -> bool:
    """Whether reading the receipt can change the entry."""
    if entry.fate in (Fate.PROCESSED, Fate.REJECTED):
        return entry.receipt_at is None or _modified(receipt).replace(microsecond=0) > entry.receipt_at
    return True
