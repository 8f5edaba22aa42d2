"""uvicorn's HTTP protocol with limits on what comes before and after a body, which it has none for."""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from listeners import webhook
from listeners.callers import AUTHENTICATED

LONGEST_HEAD = 64 * 1024
"""Bytes of request line and headers, of trailers, and of anything else that is no body."""
MOST_ANONYMOUS, MOST_OF_ONE, MOST_AUTHENTICATED = 200, 100, 200
"""Connections at once of callers who have shown no token, of one address of these, and of those who have."""
MOST_CONNECTIONS = 800
"""With those that are not counted yet: each takes a file descriptor, of which a process often has 1,024."""
GRACE = 0.1
"""Seconds after its beginning for which a connection is not counted: by then it may have shown a token."""
MOST_AT_A_TIME = 256
"""Connections that are accepted before others are heard."""
MOST_REQUESTS = 1000
SLOWEST_READER = 60.0
"""Seconds a caller may read nothing of an answer that is too long for the buffers."""
LINGER = 2.0
"""Seconds a caller that was answered before its body had come has to read that."""


class Lingering:
    """A transport that closes slowly on callers that are still sending.

    Closed with bytes unread, a connection is reset, and the answer may be lost with it.
    """

    def __init__(self, transport: asyncio.Transport, is_sending: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_sending = is_sending
        self._lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing() or not self._is_sending():
            self._transport.close()
            return
        self._lingers = True
        with suppress(OSError):  # the caller has gone
            self._transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER, self._transport.abort)


class BoundedProtocol(HttpToolsProtocol):
    """Cuts off who sends endless headers, takes longer than a body may for them, or does not read.

    A connection ends with an answer that does not wait for the body. Of too many anonymous connections the
    one whose last request is the longest ago makes room for the next.
    """

    address = ""
    is_authenticated = False
    idle_since = math.inf
    _unparsed = 0

    def connection_made(self, transport: Any) -> None:
        self._timers: dict[str, asyncio.TimerHandle] = {}
        lingering: Any = Lingering(transport, self._is_answered_early)
        super().connection_made(lingering)
        self.address = self.client[0] if self.client else ""
        if len(self.connections) > MOST_CONNECTIONS:
            self._close_idlest([one for one in self._all(authenticated=False) if one is not self])
        # By a timer of its own: asyncio reads what has come, and acts on it, before it looks at timers.
        self._start("grace", GRACE, self._fall_idle)
        self._start("head", webhook.SLOWEST_BODY, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        for name in [*self._timers]:
            self._stop(name)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start("reader", SLOWEST_READER, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop("reader")
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        self._unparsed += len(data)
        if self.transport.is_closing():
            if self._unparsed > webhook.LONGEST_BODY:
                self.flow.pause_reading()
            return
        super().data_received(data)
        if self._unparsed > LONGEST_HEAD + len(data) and not self.transport.is_closing():
            self.send_400_response("Headers too long.")

    def on_message_begin(self) -> None:
        self._unparsed = 0
        super().on_message_begin()
        self.scope["state"][AUTHENTICATED] = self._authenticate
        self._start("head", webhook.SLOWEST_BODY, self.transport.close)

    def on_headers_complete(self) -> None:
        self._unparsed = 0
        if self.idle_since < math.inf:
            self.idle_since = self.loop.time()
        self._stop("head")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_answered_early():
            self.transport.close()

    def _is_answered_early(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete and self.cycle.more_body

    def _fall_idle(self) -> None:
        self.idle_since = self.loop.time()
        idle = [one for one in self._all(authenticated=False) if one.idle_since < math.inf]
        own = [one for one in idle if one.address == self.address]
        for those, most in ((own, MOST_OF_ONE), (idle, MOST_ANONYMOUS)):
            if len(those) > most:
                self._close_idlest(those)
                return

    def _close_idlest(self, those: "list[BoundedProtocol]") -> None:
        if those:
            first = min(those, key=lambda one: one.idle_since)
            self.connections.discard(first)
            first.transport.abort()

    def _authenticate(self) -> None:
        # One too many is served all the same, as an anonymous one.
        self.is_authenticated = (
            self.is_authenticated or len(self._all(authenticated=True)) < MOST_AUTHENTICATED
        )

    def _all(self, *, authenticated: bool) -> "list[BoundedProtocol]":
        return [
            one
            for one in self.connections
            if isinstance(one, BoundedProtocol) and one.is_authenticated is authenticated
        ]

    def _start(self, timer: str, seconds: float, act: Callable[[], object]) -> None:
        self._stop(timer)
        self._timers[timer] = self.loop.call_later(seconds, act)

    def _stop(self, timer: str) -> None:
        if started := self._timers.pop(timer, None):
            started.cancel()


def server_config(app: ASGIApp, host: str, port: int) -> uvicorn.Config:
    """How the listener serves; a port of 0 is any free one."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        host=host,
        port=port,
        log_level="warning",
        lifespan="off",
        access_log=False,
        timeout_keep_alive=30,
        backlog=MOST_AT_A_TIME,
        limit_concurrency=MOST_REQUESTS,
        timeout_graceful_shutdown=3,
    )
