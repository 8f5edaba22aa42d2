"""Files that are expected by a time: whether they came, as the bucket says, and whether they came late."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from dropflow.clock import utc_now
from dropflow.datasets import Dataset, Datasets, canary_prefix
from dropflow.errors import DropflowError
from dropflow.expecting import Expect
from dropflow.ledger import Deadline, Ledger
from dropflow.objects import ObjectRef
from dropflow.prefect_api import PrefectApi, deadline_event
from dropflow.status import age
from dropflow.storage import ObjectStore
from dropflow.unforeseen import Troubles

log = logging.getLogger(__name__)

LIST_AGAIN = timedelta(minutes=1)
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
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._ledger = ledger
        self._expecting = [(d, d.expect) for d in datasets.by_name.values() if d.expect]
        self._store = store
        self._prefect = prefect
        self._now = now
        self._listed: dict[str, datetime] = {}

    def look(self) -> None:
        """Judge the deadlines that have passed. Raises what went wrong with one, after all others."""
        known = self._ledger.deadlines.known()
        for name in known.keys() - {dataset.name for dataset, _ in self._expecting}:
            self._ledger.deadlines.forget(name)
        troubles = Troubles()
        for dataset, expect in self._expecting:
            with troubles.kept(f"deadline of {dataset.name}"):
                self._look(dataset, expect, known.get(dataset.name))
        troubles.raise_last()

    def _look(self, dataset: Dataset, expect: Expect, was: Deadline | None) -> None:
        due, before = expect.deadlines(self._now() - GRACE, dataset.timezone)
        if was is None:
            self._ledger.deadlines.begin(dataset.name, due)
        elif was.verdict and self._post(was):
            self._ledger.deadlines.posted(was)
        elif was.missing and (late := self._first(dataset, was.after, sure=was.due < due)):
            self._came(dataset, was, *late)
        elif was.due < due:
            self._judge(dataset, was, due, max(was.after, before))

    def _judge(self, dataset: Dataset, was: Deadline, due: datetime, after: datetime) -> None:
        first = self._first(dataset, after, sure=True)
        missing = "" if first and first[1] <= due else f"no file by {_local(due, dataset)}"
        place = ObjectRef(dataset.bucket, dataset.match.partition("/")[2])
        if self._ledger.deadlines.judge(was, due, missing, place) and missing:
            log.warning("%s: %s", dataset.name, missing)

    def _came(self, dataset: Dataset, was: Deadline, ref: ObjectRef, at: datetime) -> None:
        reason = f"expected by {_local(was.due, dataset)}, came {age(at - was.due)} later"
        self._ledger.deadlines.came(was, at, ref, reason)

    def _first(self, dataset: Dataset, after: datetime, *, sure: bool) -> tuple[ObjectRef, datetime] | None:
        """The first file written after a moment, and when.

        By the ledger; or else, if one wants to be `sure` and once in a while, by the bucket, which knows of
        the same bytes that came once more.
        """
        canaries = canary_prefix(dataset)
        if found := self._ledger.deadlines.arrival(dataset.name, after, canaries):
            return found.ref, found.ref.modified or found.first_seen
        listed, now = self._listed.get(dataset.name), self._now()
        if not sure and listed and now - listed < LIST_AGAIN:
            return None
        self._listed[dataset.name] = now
        there = (
            (ref, ref.modified)
            for ref in self._store.list(dataset.bucket, dataset.prefix)
            if ref.modified is not None
            and ref.modified > after
            and dataset.matches(ref.bucket, ref.key)
            and not ref.key.startswith(canaries)
        )
        return min(there, key=lambda found: (found[1], found[0].key), default=None)

    def _post(self, was: Deadline) -> bool:
        """For automations; messages do not depend on it."""
        try:
            self._prefect.post_events([deadline_event(was.dataset, was.due, was.verdict)])
        except DropflowError as error:
            log.warning("%s: Prefect is not told yet of its deadline: %s", was.dataset, error)
            return False
        return True


def _local(moment: datetime, dataset: Dataset) -> str:
    return f"{moment.astimezone(ZoneInfo(dataset.timezone)):%a %d %b %H:%M %Z}"
