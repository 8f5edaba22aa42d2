"""Files that are expected by a time: whether they came, as the bucket says, and whether they came late."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from dropflow.datasets import Dataset, Datasets, canary_prefix
from dropflow.errors import DropflowError
from dropflow.ledger import Deadline, Ledger
from dropflow.objects import ObjectRef
from dropflow.prefect_api import PrefectApi, dataset_missing_event
from dropflow.storage import ObjectStore

log = logging.getLogger(__name__)

GRACE = timedelta(seconds=5)
"""What is written up to a deadline's own second is in time, and seen by then."""


class Expectations:
    """`look` may be called as often as one likes, by any number of listeners."""

    def __init__(
        self,
        ledger: Ledger,
        datasets: Datasets,
        store: ObjectStore,
        prefect: PrefectApi,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ledger = ledger
        self._expecting = [(d, d.expect) for d in datasets.by_name.values() if d.expect]
        self._store = store
        self._prefect = prefect
        self._now = now

    def look(self) -> None:
        """Judge the deadlines that have passed. Raises TransientError of ledger and store."""
        known = self._ledger.deadlines.known()
        for name in known.keys() - {dataset.name for dataset, _ in self._expecting}:
            self._ledger.deadlines.forget(name)
        for dataset, expect in self._expecting:
            due, before = expect.deadlines(self._now() - GRACE, dataset.timezone)
            was = known.get(dataset.name)
            if was is None:
                self._ledger.deadlines.begin(dataset.name, due)
            elif was.due < due:
                self._judge(dataset, was, due, max(was.after, before))
            else:
                self._follow(dataset, was)

    def _judge(self, dataset: Dataset, was: Deadline, due: datetime, after: datetime) -> None:
        missing = "" if self._has_come(dataset, after, due) else f"no file by {_local(due, dataset)}"
        place = ObjectRef(dataset.bucket, dataset.match.partition("/")[2])
        if self._ledger.deadlines.judge(was, due, missing, place) and missing:
            log.warning("%s: %s", dataset.name, missing)

    def _has_come(self, dataset: Dataset, after: datetime, until: datetime) -> bool:
        """By the ledger; or else by the bucket, which knows of the same bytes that came once more."""
        canaries = canary_prefix(dataset)
        first = self._ledger.deadlines.arrival(dataset.name, after, canaries)
        if first and (first.ref.modified or first.first_seen) <= until:
            return True
        return any(
            ref.modified is not None
            and after < ref.modified <= until
            and dataset.matches(ref.bucket, ref.key)
            and not ref.key.startswith(canaries)
            for ref in self._store.list(dataset.bucket, dataset.prefix)
        )

    def _follow(self, dataset: Dataset, was: Deadline) -> None:
        if not was.posted:
            self._post(was)
        if not was.missing:
            return
        if found := self._ledger.deadlines.arrival(dataset.name, was.due, canary_prefix(dataset)):
            at = found.ref.modified or found.first_seen
            span = _span((at - was.due).total_seconds() / 60)
            reason = f"expected by {_local(was.due, dataset)}, came {span} later"
            self._ledger.deadlines.came(was, at, found.ref, reason)

    def _post(self, was: Deadline) -> None:
        """For automations; messages do not depend on it."""
        try:
            self._prefect.post_events([dataset_missing_event(was.dataset, was.due)])
        except DropflowError as error:
            log.warning("%s: Prefect is not told yet that its file is missing: %s", was.dataset, error)
        else:
            self._ledger.deadlines.posted(was)


def _local(moment: datetime, dataset: Dataset) -> str:
    return f"{moment.astimezone(ZoneInfo(dataset.timezone)):%a %d %b %H:%M %Z}"


def _span(minutes: float) -> str:
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"
