"""Where all sources meet: what they report is durable in the ledger before anything else happens."""

import asyncio
import logging
from collections.abc import Iterable

from dropflow.datasets import Datasets
from dropflow.ledger import Ledger
from dropflow.objects import ObjectCreated
from listeners.parsing import Parsed

log = logging.getLogger(__name__)


class Intake:
    """Records objects of the watched buckets and wakes the dispatcher when there is something new."""

    def __init__(self, ledger: Ledger, datasets: Datasets) -> None:
        self._ledger = ledger
        self._buckets = set(datasets.raw_buckets)
        self.arrived = asyncio.Event()

    async def record(self, created: Iterable[ObjectCreated]) -> int:
        """Commit to the ledger; returns how many objects were not known before."""
        watched = [c for c in created if c.ref.bucket in self._buckets and not c.ref.key.endswith("/")]
        new = await asyncio.to_thread(self._ledger.record, watched) if watched else 0
        if new:
            self.arrived.set()
        return new

    async def record_parsed(self, parsed: Parsed, body: bytes) -> int:
        """Record a payload's objects; keep the payload itself when part of it was unreadable."""
        if parsed.problems:
            await self.keep_unreadable(body, "; ".join(parsed.problems[:5]))
        return await self.record(parsed.created)

    async def keep_unreadable(self, body: bytes, reason: str) -> None:
        log.warning("kept an unreadable notification of %d bytes: %s", len(body), reason)
        await asyncio.to_thread(self._ledger.keep_unreadable, body, reason)
