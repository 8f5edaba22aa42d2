"""Where all sources meet: what they report is durable in the ledger before anything else happens."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from dropflow import tracing
from dropflow.crashpoints import Point, reached
from dropflow.datasets import Datasets
from dropflow.errors import NotificationFormatError, PermanentError, UnforeseenError
from dropflow.ledger import Ledger
from dropflow.objects import ObjectCreated
from dropflow.receipts import PREFIX
from dropflow.unforeseen import contained
from listeners.parsing import Parsed

log = logging.getLogger(__name__)

MOST_TOGETHER = 5000
"""Objects in one transaction."""
MOST_TOLD = 100_000
"""Receipts told of and not read yet; what is dropped beyond is found by looking."""


Waiting = tuple[list[ObjectCreated], "asyncio.Future[None]"]


class Intake:
    """Records objects of the watched buckets, and wakes who has to do with them.

    While one transaction is being written, whatever arrives gathers for the next: each costs a flush
    to disk, however much is in it.
    """

    def __init__(self, ledger: Ledger, datasets: Datasets) -> None:
        self._ledger = ledger
        self._datasets = datasets
        self._raw = set(datasets.raw_buckets)
        self._outputs = set(datasets.output_buckets)
        self._receipts = tuple(f"{PREFIX}{name}/" for name in datasets.by_name)
        self._waiting: deque[Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "intake")
        self._writer: asyncio.Task[None] | None = None
        self.arrived = asyncio.Event()
        self.receipts: deque[tuple[str, str]] = deque(maxlen=MOST_TOLD)
        """Bucket and key of receipts that a notification told of."""
        self.told = asyncio.Event()

    async def record(self, created: Iterable[ObjectCreated]) -> None:
        """Return once all of it is committed to the ledger. Raises TransientError."""
        done = self.submit(created)
        if done:
            await done

    def submit(self, created: Iterable[ObjectCreated]) -> "asyncio.Future[None] | None":
        """What is done once all of it is committed; None when there is nothing to commit."""
        watched = []
        for one in created:
            if one.ref.bucket in self._raw and not one.ref.key.endswith("/"):
                if self._datasets.covers(one.ref.key):
                    watched.append(one)
            elif one.ref.bucket in self._outputs and one.ref.key.startswith(self._receipts):
                self.receipts.append((one.ref.bucket, one.ref.key))
                self.told.set()
        if not watched:
            return None
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((watched, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return done

    async def _write(self) -> None:
        while self._waiting:
            gathered: list[Waiting] = []
            batch: list[ObjectCreated] = []
            while self._waiting and len(batch) < MOST_TOGETHER:
                gathered.append(self._waiting.popleft())
                batch += gathered[-1][0]
            asked = [done for _, done in gathered]
            try:
                await self._commit(batch)
            except PermanentError as error:
                # What the database refuses belongs to one of them: the others must not suffer.
                if len(asked) == 1:
                    _answer(asked, error)
                else:
                    await self._commit_each(gathered)
            except Exception as error:  # noqa: BLE001 - belongs to whoever waits
                _answer(asked, error)
            else:
                _answer(asked, None)

    async def _commit(self, batch: list[ObjectCreated]) -> None:
        # A thread of its own: a store that hangs the others must not keep the webhook from answering.
        with contained(f"{len(batch)} notifications"):
            new = await asyncio.get_running_loop().run_in_executor(self._thread, self._record, batch)
        reached(Point.NOTIFICATION_RECORDED)
        if new:
            self.arrived.set()

    def _record(self, batch: list[ObjectCreated]) -> int:
        began = time.time_ns()
        new = self._ledger.record(batch)
        if tracing.is_on():
            for one in batch:
                tracing.record("notification", one.ref, began, source=one.source)
        return new

    async def _commit_each(self, gathered: list[Waiting]) -> None:
        for watched, done in gathered:
            try:
                await self._commit(watched)
            except Exception as error:  # noqa: BLE001 - belongs to whoever waits
                _answer([done], error)
            else:
                _answer([done], None)

    async def read(self, payload: bytes, parse: Callable[[bytes], Parsed]) -> Parsed:
        """What a payload tells; one that cannot be read, or not all of it, is kept."""
        try:
            with contained(f"notification of {len(payload)} bytes"):
                parsed = parse(payload)
        except (NotificationFormatError, UnforeseenError) as error:
            parsed = Parsed(problems=[str(error)])
        if parsed.problems:
            await self.keep_unreadable(payload, "; ".join(parsed.problems))
        return parsed

    async def keep_unreadable(self, body: bytes, reason: str) -> None:
        log.warning("kept an unreadable notification of %d bytes: %s", len(body), reason)
        await asyncio.to_thread(self._ledger.keep_unreadable, body, reason)


def _answer(asked: list[asyncio.Future[None]], error: Exception | None) -> None:
    for done in asked:
        if done.cancelled():
            continue
        if error:
            done.set_exception(error)
        else:
            done.set_result(None)
