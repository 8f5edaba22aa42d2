"""Told by Prefect's event stream that a run is scheduled: a worker need not wait for its next poll."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prefect.events import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter

log = logging.getLogger(__name__)

SCHEDULED = ["prefect.flow-run.Scheduled", "prefect.flow-run.AwaitingRetry", "prefect.flow-run.Late"]
AGAIN = 2.0
"""Seconds until a broken stream is opened anew; polling goes on meanwhile."""


async def poll_when_told(poll: Callable[[], Awaitable[object]]) -> None:
    """Poll after every event of a run that is scheduled; several at once are one poll. Never returns."""
    told = asyncio.Event()
    async with asyncio.TaskGroup() as together:
        together.create_task(_listen(told))
        while True:
            await told.wait()
            told.clear()
            try:
                await poll()
            except Exception as error:  # noqa: BLE001 - whatever it is, the worker's own polls see and count it
                log.debug("a poll that was asked for: %r", error)


async def _listen(told: asyncio.Event) -> None:
    events = EventFilter(event=EventNameFilter(name=SCHEDULED))
    while True:
        try:
            async with get_events_subscriber(filter=events, reconnection_attempts=0) as stream:
                told.set()
                async for _ in stream:
                    told.set()
        except Exception as error:  # noqa: BLE001 - Prefect raises plain Exception where it may not listen
            log.debug("the event stream: %r; polling goes on", error)
        await asyncio.sleep(AGAIN)
