"""The sweep: list the raw buckets and record what no notification told of. The truth."""

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator

from dropflow.errors import DropflowError
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.storage import ObjectStore
from listeners.intake import Intake

log = logging.getLogger(__name__)

BATCH = 1000


class Sweep:
    """Sweeps at start, whenever asked, and every `seconds`."""

    def __init__(self, store: ObjectStore, buckets: list[str], intake: Intake, seconds: float) -> None:
        self._store = store
        self._buckets = buckets
        self._intake = intake
        self._seconds = seconds
        self._asked = asyncio.Event()

    async def ask(self) -> None:
        """Sweep soon: a gap in the notifications has just ended."""
        self._asked.set()

    async def run(self) -> None:
        while True:
            self._asked.clear()
            try:
                await self.once()
            except DropflowError as error:
                log.warning("sweep: %s; the next one is in %.0f s", error, self._seconds)
            try:
                await asyncio.wait_for(self._asked.wait(), self._seconds)
            except TimeoutError:
                continue

    async def once(self) -> int:
        """List every raw bucket, a page in memory at a time; returns how many objects were new."""
        started = time.monotonic()
        seen = new = 0
        trouble: DropflowError | None = None
        for bucket in self._buckets:
            pages = _pages(self._store.list(bucket))
            try:
                while page := await asyncio.to_thread(next, pages, None):
                    seen += len(page)
                    new += await self._intake.record(ObjectCreated(ref, "sweep") for ref in page)
            except DropflowError as error:
                trouble = error  # the other buckets are swept all the same
        if trouble:
            raise trouble
        level = logging.INFO if new else logging.DEBUG
        seconds = time.monotonic() - started
        log.log(level, "swept %d objects in %.1f s, %d of them new", seen, seconds, new)
        return new


def _pages(refs: Iterator[ObjectRef]) -> Iterator[list[ObjectRef]]:
    while page := list(itertools.islice(refs, BATCH)):
        yield page
