"""The dispatcher: pending objects become Prefect events, and receipts become fates."""

import asyncio
import logging

from dropflow.datasets import Dataset, Datasets
from dropflow.errors import DropflowError, ObjectMissingError, ReceiptError
from dropflow.ledger import Entry, Fate, Ledger
from dropflow.objects import ObjectRef, printable
from dropflow.prefect_api import PrefectApi, object_created_event
from dropflow.receipts import standing_receipt
from dropflow.storage import ObjectStore
from listeners.intake import Intake

log = logging.getLogger(__name__)

BATCH = 100
MOST_TROUBLE = 3
RECEIPT_POLL = 1.0
"""Seconds between two looks for the receipts of dispatched objects."""
LONGEST_WAIT = 30.0


class Dispatcher:
    """Moves objects from pending to dispatched, and from there to the fate of their receipt."""

    def __init__(
        self, ledger: Ledger, datasets: Datasets, store: ObjectStore, prefect: PrefectApi, intake: Intake
    ) -> None:
        self._ledger = ledger
        self._datasets = datasets
        self._store = store
        self._prefect = prefect
        self._intake = intake

    async def run(self) -> None:
        await asyncio.gather(self._dispatch_for_ever(), self._settle_for_ever())

    async def _dispatch_for_ever(self) -> None:
        wait = 1.0
        while True:
            self._intake.arrived.clear()
            try:
                while await asyncio.to_thread(self.dispatch):
                    wait = 1.0
                await self._intake.arrived.wait()
            except DropflowError as error:
                # What could not be dispatched is still pending: nothing is lost by waiting.
                log.warning("%s; dispatching goes on in %.0f s", error, wait)
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)

    async def _settle_for_ever(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.settle)
            except DropflowError as error:
                log.warning("looking for receipts: %s", error)
            await asyncio.sleep(RECEIPT_POLL)

    def dispatch(self) -> int:
        """Bring a batch of pending objects on their way; returns how many there were.

        An object the store makes trouble with goes to the end of the queue; after MOST_TROUBLE of
        them, and whenever Prefect cannot be reached, the error is raised.
        """
        pending = self._ledger.with_fate(Fate.PENDING, BATCH)
        troubles: list[DropflowError] = []
        for entry in pending:
            try:
                dataset = self._dataset_to_run(entry)
            except DropflowError as error:
                self._ledger.mark(entry.ref, Fate.PENDING, reason=str(error))
                troubles.append(error)
                if len(troubles) >= MOST_TROUBLE:
                    break
                continue
            if dataset:
                self._prefect.post_events([object_created_event(dataset.name, [entry.ref])])
                self._ledger.mark(entry.ref, Fate.DISPATCHED, dataset=dataset.name, reason="event posted")
                told = printable(entry.ref.url)
                log.info("dispatched %s to %s (seen by %s)", told, dataset.name, entry.source)
        if troubles:
            raise troubles[-1]
        return len(pending)

    def _dataset_to_run(self, entry: Entry) -> Dataset | None:
        """The dataset whose run the object needs; None when it is settled or resolved by now."""
        ref = entry.ref
        if not ref.etag:
            self._resolve(ref)
            return None
        dataset, reason = self._datasets.find(ref.bucket, ref.key)
        if dataset is None:
            log.info("ignored %s: %s", printable(ref.url), reason)
            self._ledger.mark(ref, Fate.IGNORED, reason=reason)
            return None
        return None if self._has_receipt(dataset, ref) else dataset

    def _resolve(self, ref: ObjectRef) -> None:
        """Ask the store for what the notification did not tell: etag, size and version."""
        try:
            self._ledger.resolve(ref, self._store.stat(ref.bucket, ref.key))
        except ObjectMissingError:
            # Deleted, or not visible yet (SeaweedFS can tell before its PUT is done): the sweep sees it.
            self._ledger.resolve(ref, None)

    def settle(self) -> None:
        """Give dispatched objects that have a receipt now their fate."""
        for entry in self._ledger.with_fate(Fate.DISPATCHED, BATCH):
            dataset = self._datasets.by_name.get(entry.dataset)
            if dataset is None or not self._has_receipt(dataset, entry.ref):
                # Next time others come first: a run that never ends must not hide them.
                self._ledger.mark(entry.ref, entry.fate, dataset=entry.dataset, reason=entry.reason)

    def _has_receipt(self, dataset: Dataset, ref: ObjectRef) -> bool:
        """Whether the object's fate is settled; a receipt that cannot be read settles it as failed."""
        try:
            receipt = standing_receipt(self._store, dataset, ref)
        except ReceiptError as error:
            self._ledger.mark(ref, Fate.FAILED, dataset=dataset.name, reason=str(error))
            return True
        if receipt is None:
            return False
        reason = receipt.reason or f"receipt of {receipt.written_at:%Y-%m-%d %H:%M:%S} UTC"
        self._ledger.mark(ref, Fate(receipt.fate), dataset=dataset.name, reason=reason)
        log.info("%s %s", receipt.fate, printable(ref.url))
        return True
