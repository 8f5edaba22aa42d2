"""The dispatcher: pending objects are matched with their dataset and leave as Prefect events."""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from dropflow import tracing
from dropflow.clock import utc_now
from dropflow.crashpoints import Point, reached
from dropflow.datasets import Dataset, Datasets
from dropflow.errors import (
    AccessError,
    DropflowError,
    EventRefusedError,
    ObjectMissingError,
    TransientError,
    UnforeseenError,
)
from dropflow.ledger import Delivery, Entry, Gather, Ledger
from dropflow.logs import of
from dropflow.objects import ObjectRef, printable
from dropflow.prefect_api import PrefectApi, object_created_event
from dropflow.storage import ObjectStore
from dropflow.unforeseen import contained
from listeners.paused import Paused

log = logging.getLogger(__name__)

BATCH = 1000
MARKER = "marker: what it marks may be prepared"
MOST_TROUBLE = 3
REFUSED_WAIT = 5.0
FIRST_LOOK = 2.0
"""Seconds until a receipt is looked for that no notification told of; more for large deliveries."""
PER_OBJECT = 0.1
"""Seconds more that each object of a delivery is given."""


GATHER = Gather(
    many=30,
    lately=timedelta(seconds=5),
    quiet=timedelta(seconds=0.5),
    few=60,
    longest=timedelta(seconds=10),
)
"""A run costs 1.4 s of CPU before it has prepared anything."""


class Dispatcher:
    """Moves objects from pending to dispatched."""

    def __init__(
        self,
        ledger: Ledger,
        datasets: Datasets,
        store: ObjectStore,
        prefect: PrefectApi,
        *,
        listener: str,
        runs_per_dataset: int = 4,
        receipt_seconds: float = 20,
        gather: Gather | None = None,
    ) -> None:
        self._ledger = ledger
        self._datasets = datasets
        self._store = store
        self._prefect = prefect
        self._listener = listener
        self._most_in_flight = runs_per_dataset
        self._receipt_seconds = receipt_seconds
        self._gather = gather
        self.paused = Paused(prefect)
        self._held: dict[str, datetime] = {}
        self.gathers = False
        """Whether objects wait for others to leave with."""
        self.posted: Callable[[Delivery], None] = lambda _: None
        """Told of each delivery that Prefect has taken."""

    def dispatch(self) -> int:
        """Bring everything that is ready on its way; returns how many events left.

        Raises TransientError when the store or Prefect cannot be reached: what has not left stays
        pending, or in a delivery that is posted next time.
        """
        troubles = self._match_all()
        posted = 0
        for left_over in self._ledger.outbox.unposted(self._listener):
            if left_over.dataset not in self.paused:
                posted += self._post(left_over)
        self.gathers = False
        for name in filter(self._ledger.outbox.waits, self._datasets.by_name):
            if self._ledger.outbox.gathers(name, self._gather):
                # Prefect is not asked, twice a second, whether it is paused.
                self.gathers = True
                continue
            if self._is_paused(name):
                continue
            self.gathers = True
            while delivery := self._claim(name):
                reached(Point.OBJECTS_CLAIMED)
                posted += self._post(delivery)
        if troubles:
            raise troubles[-1]
        return posted

    def _is_paused(self, dataset: str) -> bool:
        """Whether the dataset is; what waits is held, or held no more."""
        if dataset in self.paused:
            self._held[dataset] = self._ledger.outbox.hold(dataset, self._held.get(dataset))
            return True
        if dataset in self._held:
            self._ledger.outbox.release(dataset)
            del self._held[dataset]
        return False

    def _claim(self, dataset: str) -> Delivery | None:
        return self._ledger.outbox.claim(dataset, self._listener, self._most_in_flight, self._gather)

    def _post(self, delivery: Delivery) -> int:
        if delivery.refs:
            began = time.time_ns()
            try:
                with contained(f"event of {len(delivery.refs)} objects of {delivery.dataset}"):
                    event = object_created_event(
                        delivery.dataset, delivery.refs, event_id=delivery.id, force=delivery.force
                    )
                    self._prefect.post_events([event])
            except (EventRefusedError, UnforeseenError) as error:
                self._put_back(delivery, str(error))
                return 0
            reached(Point.EVENT_POSTED)
            self.posted(delivery)
            if tracing.is_on():
                about = {"event_id": delivery.id, "delivery": delivery.number, "objects": len(delivery.refs)}
                for ref in delivery.refs:
                    tracing.record("event", ref, began, **about)
            names = printable(", ".join(ref.name for ref in delivery.refs[:3]))
            log.info(
                "delivery %d of %d objects to %s: %s",
                delivery.number,
                len(delivery.refs),
                delivery.dataset,
                names,
                extra=of(*delivery.refs, dataset=delivery.dataset, event_id=delivery.id),
            )
        posted = utc_now()
        more = timedelta(seconds=PER_OBJECT * len(delivery.refs))
        look_at = posted + timedelta(seconds=FIRST_LOOK) + more
        due = posted + timedelta(seconds=self._receipt_seconds) + more
        self._ledger.outbox.posted(delivery, look_at, due)
        reached(Point.DELIVERY_RECORDED)
        return 1 if delivery.refs else 0

    def _put_back(self, delivery: Delivery, reason: str) -> None:
        """Prefect refuses this event: find the object it is about by sending them in smaller company."""
        own = of(*delivery.refs, dataset=delivery.dataset, event_id=delivery.id)
        log.warning("%d objects of %s: %s", len(delivery.refs), delivery.dataset, reason, extra=own)
        soon = utc_now() + timedelta(seconds=REFUSED_WAIT)
        self._ledger.outbox.refused(delivery, reason, soon)

    def _match_all(self) -> list[DropflowError]:
        """Name the dataset of every pending object; returns what has kept some of them from it."""
        troubles: list[DropflowError] = []
        while len(troubles) < MOST_TROUBLE and (entries := self._ledger.unmatched(BATCH)):
            matched: list[tuple[Entry, str, datetime | None]] = []
            ignored: dict[str, list[Entry]] = {}
            marked: dict[tuple[str, str], bool] = {}
            for entry in entries:
                try:
                    with contained(entry.ref.url):
                        dataset = self._dataset_of(entry, ignored)
                        if dataset:
                            matched.append((entry, dataset.name, self._ready_at(dataset, entry, marked)))
                except (TransientError, AccessError) as error:
                    self._ledger.postpone(entry, str(error))
                    troubles.append(error)
                    if len(troubles) >= MOST_TROUBLE:
                        break
                except DropflowError as error:
                    # Refused for good: it must not come up again and again before all others.
                    self._ledger.fail([entry], str(error))
                    log.warning("%s is given up: %s", printable(entry.ref.url), error, extra=of(entry.ref))
            self._ledger.match(matched)
            if MARKER in ignored:
                ignored[MARKER], failed = self._release_marked_by(ignored[MARKER])
                troubles += failed
            for reason, some in ignored.items():
                self._ledger.ignore(some, reason)
        return troubles

    def _release_marked_by(self, markers: list[Entry]) -> tuple[list[Entry], list[DropflowError]]:
        """Let go what they mark; the markers that are done with, and what has kept others from it."""
        failed = self._release()
        for marker in markers:
            if failure := failed.get(marker.ref.bucket):
                # It comes up again, and with it what it marks.
                self._ledger.postpone(marker, str(failure))
        return [one for one in markers if one.ref.bucket not in failed], list(failed.values())

    def _dataset_of(self, entry: Entry, ignored: dict[str, list[Entry]]) -> Dataset | None:
        """The dataset; None when the object is settled or resolved by now, or will be `ignored`."""
        ref = entry.ref
        if not ref.etag:
            self._ledger.resolve(ref, self._find(ref))
            return None
        if self._marks(ref):
            ignored.setdefault(MARKER, []).append(entry)
            return None
        dataset, reason = self._datasets.find(ref.bucket, ref.key)
        if dataset is None:
            log.info("ignored %s: %s", printable(ref.url), reason, extra=of(ref))
            ignored.setdefault(reason, []).append(entry)
            return None
        if entry.reopened and not self._store.is_current(ref):
            self._ledger.look_again(entry, dataset.name)
            return None
        return dataset

    def _find(self, ref: ObjectRef) -> ObjectRef | None:
        try:
            return self._store.stat(ref.bucket, ref.key)
        except ObjectMissingError:
            # Deleted, or not visible yet (SeaweedFS can tell before its PUT is done): the sweep sees it.
            return None

    def _ready_at(
        self, dataset: Dataset, entry: Entry, marked: dict[tuple[str, str], bool]
    ) -> datetime | None:
        """From when on it may leave; None: when its marker is there."""
        if dataset.ready.marker and not self._is_marked(dataset, entry.ref, marked):
            return None
        if dataset.ready.quiet_seconds:
            return entry.first_seen + timedelta(seconds=dataset.ready.quiet_seconds)
        return entry.first_seen

    def _marks(self, ref: ObjectRef) -> bool:
        """Whether the object is a marker."""
        return any(
            d.bucket == ref.bucket and d.ready.marker == ref.name for d in self._datasets.by_name.values()
        )

    def release_marked(self) -> None:
        """Look again for the markers that objects wait for. Raises what has kept it from one bucket's."""
        if failed := self._release():
            raise next(iter(failed.values()))

    def _release(self) -> dict[str, DropflowError]:
        """Let go what is marked by now; the buckets that could not be looked at, and why."""
        ready: list[tuple[Entry, str, datetime | None]] = []
        marked: dict[tuple[str, str], bool] = {}
        failed: dict[str, DropflowError] = {}
        for entry in self._ledger.awaiting_marker():
            dataset = self._datasets.by_name.get(entry.dataset)
            if dataset is None or entry.ref.bucket in failed:
                continue
            try:
                with contained(entry.ref.url):
                    if self._is_marked(dataset, entry.ref, marked):
                        ready.append((entry, dataset.name, utc_now()))
            except (TransientError, AccessError) as error:
                failed[entry.ref.bucket] = error
            except DropflowError as error:
                log.warning("%s", error, extra=of(entry.ref))
        self._ledger.match(ready)
        return failed

    def _is_marked(self, dataset: Dataset, ref: ObjectRef, marked: dict[tuple[str, str], bool]) -> bool:
        """Whether the marker of the object's folder is there; `marked` keeps the answers of one pass."""
        marker = (ref.bucket, dataset.marker_key(ref.key))
        if marker not in marked:
            marked[marker] = self._store.exists(*marker)
        return marked[marker]
