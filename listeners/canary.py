"""The canary: an object dropped now and then, whose receipt shows that the whole path works."""

import asyncio
import logging
import time
from datetime import UTC, datetime
from pathlib import Path

from dropflow.datasets import Dataset, Datasets, canary_prefix
from dropflow.errors import DropflowError, SettingsError
from dropflow.ledger import Ledger
from dropflow.logs import of
from dropflow.objects import ObjectRef
from dropflow.receipts import COMPANIONS, PREFIX, read_receipt
from dropflow.settings import Settings
from dropflow.storage import ObjectStore
from dropflow.unforeseen import contained

log = logging.getLogger(__name__)

POLL = 1.0
LEASE, LEASE_SECONDS = "canary", 20.0


class Canary:
    """Drops a known good file below the dataset's `_canary/`, awaits its receipt, cleans up.

    Of several listeners on a ledger one does: each would remove the others' canaries.
    """

    def __init__(
        self,
        store: ObjectStore,
        ledger: Ledger,
        dataset: Dataset,
        content: bytes,
        seconds: float,
        *,
        listener: str,
    ) -> None:
        self._store = store
        self._dataset = dataset
        self._content = content
        self._seconds = seconds
        self._ledger = ledger
        self._listener = listener
        self._singing = True

    async def run(self) -> None:
        while True:
            if await self._lease():
                await self._lead()
            await asyncio.sleep(LEASE_SECONDS / 4)

    async def _lease(self) -> bool:
        lease = self._ledger.watch.lease
        try:
            return await asyncio.to_thread(lease, LEASE, self._listener, LEASE_SECONDS)
        except DropflowError as error:
            log.warning("the canary: %s", error)
            return False

    async def _lead(self) -> None:
        """Sing for as long as the lease is ours; it is renewed whatever a song waits for."""
        songs = asyncio.create_task(self._sing_for_ever())
        try:
            while await self._lease():
                done, _ = await asyncio.wait({songs}, timeout=LEASE_SECONDS / 4)
                if done:
                    songs.result()  # a defect: it does not end by itself
        finally:
            songs.cancel()

    async def _sing_for_ever(self) -> None:
        while True:
            started = time.monotonic()
            try:
                with contained("the canary"):
                    await self._sing()
            except DropflowError as error:
                place = ObjectRef(self._dataset.bucket, canary_prefix(self._dataset).rstrip("/"))
                await self._miss(place, str(error))
            await asyncio.sleep(max(0.0, self._seconds - (time.monotonic() - started)))

    async def _sing(self) -> None:
        key = f"{canary_prefix(self._dataset)}{datetime.now(UTC):%Y%m%dT%H%M%S%f}.csv"
        put = self._store.put
        # What an earlier one has left, should its run have come late.
        await asyncio.to_thread(self._clean_up)
        ref = await asyncio.to_thread(put, self._dataset.bucket, key, self._content, "text/csv")
        deadline = time.monotonic() + self._seconds
        while time.monotonic() < deadline:
            receipt = await asyncio.to_thread(read_receipt, self._store, self._dataset, ref)
            if receipt and receipt.fate == "processed":
                if not self._singing:
                    log.warning("the canary sings again")
                self._singing = True
                break
            if receipt:
                await self._miss(ref, f"was rejected: {receipt.reason}")
                break
            await asyncio.sleep(POLL)
        else:
            await self._miss(ref, f"no receipt after {self._seconds:g} s")
        await asyncio.to_thread(self._clean_up)

    async def _miss(self, ref: ObjectRef, why: str) -> None:
        self._singing = False
        log.error("%s: %s", ref.url, why, extra=of(ref, dataset=self._dataset.name))
        try:
            await asyncio.to_thread(self._ledger.notices.tell, self._dataset.name, "canary", ref, why)
        except DropflowError as error:
            log.warning("the canary: %s", error)

    def _clean_up(self) -> None:
        """Remove every canary with output and receipt."""
        dataset, store = self._dataset, self._store
        prefix = canary_prefix(dataset)
        outputs = dataset.output_key(f"{prefix}x").rpartition("/")[0]
        for bucket, folder in (
            (dataset.bucket, prefix),
            (dataset.output_bucket, f"{outputs}/"),
            *((dataset.output_bucket, f"{kind}{dataset.name}/{prefix}") for kind in (PREFIX, *COMPANIONS)),
        ):
            for ref in list(store.list(bucket, folder)):
                store.delete(bucket, ref.key)


def make_canary(
    settings: Settings, datasets: Datasets, store: ObjectStore, ledger: Ledger, *, listener: str
) -> Canary | None:
    """The canary that the settings ask for. Raises SettingsError or DatasetError."""
    if settings.canary_dataset is None:
        return None
    dataset = datasets[settings.canary_dataset]
    if settings.canary_file is None:
        raise SettingsError("DROPFLOW_CANARY_DATASET needs DROPFLOW_CANARY_FILE, a good file of it")
    try:
        content = Path(settings.canary_file).read_bytes()
    except OSError as error:
        raise SettingsError(f"DROPFLOW_CANARY_FILE: {error}") from error
    if not dataset.matches(dataset.bucket, f"{canary_prefix(dataset)}x.csv"):
        raise SettingsError(
            f"DROPFLOW_CANARY_DATASET: {dataset.match} takes no {canary_prefix(dataset)}x.csv"
        )
    return Canary(store, ledger, dataset, content, settings.canary_seconds, listener=listener)
