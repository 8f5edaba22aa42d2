"""Bodies on their way between browser and store: a few chunks in memory at a time."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from dropflow.storage import Opened

SILENCE = 30.0
"""Seconds after which a caller that sends nothing is cut off."""


class Body:
    """A request's body as a file that another thread reads. Never more than `most` bytes are taken."""

    def __init__(self, request: Request, most: int) -> None:
        self._chunks = aiter(request.stream())
        self._loop = asyncio.get_running_loop()
        self._most = most
        self._taken = 0
        self._buffer = bytearray()
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """As many bytes as asked for, unless the body ends before. Raises HTTPException."""
        while not self._ended and (size < 0 or len(self._buffer) < size):
            chunk = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result(2 * SILENCE)
            self._ended = not chunk
            self._buffer += chunk
        size = len(self._buffer) if size < 0 else size
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(SILENCE):
                chunk = await anext(self._chunks, b"")
        except TimeoutError as error:
            raise HTTPException(408, "the file did not come in time") from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the file was cut off") from error
        self._taken += len(chunk)
        check_length(self._taken, self._most)
        return chunk


def check_length(length: int, most: int) -> None:
    """`most`: 0 for no uploads at all. Raises HTTPException."""
    if not most:
        raise HTTPException(413, "uploads are turned off (DROPFLOW_PAGE_UPLOAD_MIB)")
    if length > most:
        raise HTTPException(413, f"larger than {most / 2**20:,.0f} MiB (DROPFLOW_PAGE_UPLOAD_MIB)")


def announced_length(request: Request) -> int:
    """What the caller says its body has; 0 where it does not."""
    given = request.headers.get("content-length", "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 19 else 0


async def small_body(request: Request, most: int = 4096) -> bytes:
    """A body of a few words. Raises HTTPException."""
    body = bytearray()
    try:
        async with asyncio.timeout(SILENCE):
            async for chunk in request.stream():
                body += chunk
                check_length(len(body), most)
    except TimeoutError as error:
        raise HTTPException(408, "the body did not come in time") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the body was cut off") from error
    return bytes(body)


async def sent(opened: Opened, do: Callable[..., Any]) -> AsyncIterator[bytes]:
    """Chunks that the store gives, each read by a thread."""
    lock = threading.Lock()
    chunks = opened.chunks()

    def read() -> bytes:
        with lock:
            return next(chunks, b"")

    def close() -> None:
        # The browser may have gone while a thread still reads.
        with lock:
            opened.close()

    try:
        while chunk := await do(read):
            yield chunk
    finally:
        asyncio.get_running_loop().run_in_executor(None, close)
