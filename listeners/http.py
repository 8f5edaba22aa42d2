"""uvicorn's HTTP protocol with limits on what comes before and after a body, which it has none for."""

import asyncio
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from listeners import webhook

LONGEST_HEAD = 64 * 1024
"""Bytes of request line and headers, of trailers, and of anything else that is no body."""
MOST_CONNECTIONS, MOST_OF_ONE = 500, 200
"""At once, in all and from one address: each takes a file descriptor, of which a process often has 1,024."""
SLOWEST_READER = 60.0
"""Seconds a caller may read nothing of an answer that is too long for the buffers."""


class BoundedProtocol(HttpToolsProtocol):
    """Cuts off who sends endless headers, takes longer than a body may for them, or does not read."""

    _unparsed = 0
    _patience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self._are_too_many():
            self.transport.abort()
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_watching()
        self._unread = self.loop.call_later(SLOWEST_READER, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_watching()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > LONGEST_HEAD + len(data) and not self.transport.is_closing():
            self.send_400_response("Headers too long.")

    def on_message_begin(self) -> None:
        self._unparsed = 0
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._unparsed = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        super().on_message_complete()

    def _are_too_many(self) -> bool:
        clients = [getattr(one, "client", None) for one in self.connections]
        of_one = sum(
            one is not None and self.client is not None and one[0] == self.client[0] for one in clients
        )
        return len(clients) > MOST_CONNECTIONS or of_one > MOST_OF_ONE

    def _stop_watching(self) -> None:
        if self._unread:
            self._unread.cancel()
            self._unread = None

    def _wait(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(webhook.SLOWEST_BODY, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None


def server_config(app: ASGIApp, host: str, port: int) -> uvicorn.Config:
    """How the listener serves; a port of 0 is any free one."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        host=host,
        port=port,
        log_level="warning",
        lifespan="off",
        access_log=False,
        timeout_keep_alive=30,
        limit_concurrency=2 * MOST_CONNECTIONS,
        timeout_graceful_shutdown=3,
    )
