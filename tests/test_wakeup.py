"""A worker polls when Prefect's event stream tells of a run, whatever becomes of the stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flows import wakeup
from flows.wakeup import poll_when_told


class Prefect:
    """A stream that is cut off after each event, and refused every other time."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.opened = 0

    @asynccontextmanager
    async def subscriber(self, **_: Any) -> AsyncIterator[AsyncIterator[str]]:
        self.opened += 1
        if self.opened % 2 == 0:
            # As Prefect does where the token is wrong.
            raise Exception("Unable to authenticate to the event stream")  # noqa: TRY002

        async def stream() -> AsyncIterator[str]:
            yield await self.events.get()

        yield stream()


def test_every_event_is_followed_by_a_poll_though_stream_and_polls_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        prefect, polls = Prefect(), asyncio.Queue[int]()
        monkeypatch.setattr(wakeup, "get_events_subscriber", prefect.subscriber)
        monkeypatch.setattr(wakeup, "AGAIN", 0.01)

        async def poll() -> None:
            await polls.put(1)
            raise OSError("the server is away")

        task = asyncio.create_task(poll_when_told(poll))
        async with asyncio.timeout(10):
            for number in range(3):
                await polls.get()  # once the stream is open: what came before it was not heard
                await prefect.events.put(f"run {number}")
                await polls.get()
        assert prefect.opened >= 3
        assert not task.done()
        task.cancel()

    asyncio.run(scenario())
