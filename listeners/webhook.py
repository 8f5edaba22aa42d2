"""The listener's HTTP side: the webhook that stores call for every object, health and metrics."""

import asyncio
import hmac
import logging
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dropflow.errors import LedgerError, TransientError, UnforeseenError
from listeners.callers import mark_authenticated
from listeners.intake import Intake
from listeners.metrics import Metrics
from listeners.parsing import parse_webhook_body

log = logging.getLogger(__name__)

PATH = "/notifications"
LONGEST_BODY = 2**20
"""Bytes; a MinIO notification is about 1 KB."""
MOST_BODIES = 64
"""Bodies read at once: with LONGEST_BODY the most memory that callers can take."""
SLOWEST_BODY = 15.0
"""Seconds a caller has for its body."""


def make_app(
    intake: Intake,
    token: SecretStr,
    metrics: Metrics,
    why_not_ready: Callable[[], str] = lambda: "",
) -> ASGIApp:
    """/notifications for stores, /healthz and /readyz for supervisors, /metrics for Prometheus."""
    webhook = Webhook(intake, token, metrics)
    exposition = Exposition(metrics)

    async def alive(_: Request) -> Response:
        # MinIO asks with HEAD whether its target is there.
        return Response(status_code=204)

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def ready(_: Request) -> Response:
        reason = why_not_ready()
        return PlainTextResponse(f"{reason or 'ready'}\n", 503 if reason else 200)

    async def scrape(_: Request) -> Response:
        return Response(await exposition.text(), media_type=CONTENT_TYPE_LATEST)

    others = Starlette(
        routes=[
            Route(PATH, alive, methods=["GET", "HEAD"]),
            Route("/healthz", healthy),
            Route("/readyz", ready),
            Route("/metrics", scrape),
        ]
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # Past Starlette's layers, which take a third of a call's time.
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
            answer = await webhook.receive(Request(scope, receive))
            await answer(scope, receive, send)
        else:
            await others(scope, receive, send)

    return app


class Exposition:
    """The metrics as Prometheus reads them: made once for all who ask meanwhile, since anybody may.

    Each asks the ledger a dozen questions, in a thread that the webhook could need.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._registry = metrics.registry
        self._made: asyncio.Future[bytes] | None = None

    async def text(self) -> bytes:
        if self._made is None or self._made.done():
            self._made = asyncio.ensure_future(asyncio.to_thread(generate_latest, self._registry))
        return await asyncio.shield(self._made)


class RefusedError(Exception):
    """A call that is answered with an error."""

    def __init__(self, status: int, result: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.result = result


class Webhook:
    """POST with `Authorization: Bearer <token>`; answers 2xx only once the body is in the ledger."""

    def __init__(self, intake: Intake, token: SecretStr, metrics: Metrics) -> None:
        self._intake = intake
        self._expected = f"Bearer {token.get_secret_value()}".encode()
        self._metrics = metrics
        self._bodies = asyncio.Semaphore(MOST_BODIES)

    async def receive(self, request: Request) -> Response:
        try:
            self._check(request)
            async with self._bodies:
                readable = await take(self._intake, await _body(request))
        except RefusedError as error:
            self._metrics.requests.labels(error.result).inc()
            # What is left of the body is not read: the connection cannot be used again.
            return PlainTextResponse(f"{error}\n", error.status, {"connection": "close"})
        except TransientError as error:
            log.warning("%s", error)
            self._metrics.requests.labels("ledger unreachable").inc()
            return PlainTextResponse("the ledger cannot be reached: send it again\n", 503)
        self._metrics.requests.labels("recorded" if readable else "unreadable").inc()
        return Response(status_code=204)

    def _check(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, self._expected):
            raise RefusedError(401, "unauthorized", "wrong or missing bearer token")
        mark_authenticated(request)
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > LONGEST_BODY:
            raise _too_long()


async def take(intake: Intake, body: bytes) -> bool:
    """Record a body; whether it could be read. If not it is kept: refusing it would block MinIO's queue."""
    parsed = await intake.read(body, parse_webhook_body)
    try:
        await intake.record(parsed.created)
    except (LedgerError, UnforeseenError) as error:
        await intake.keep_unreadable(body, str(error))
        return False
    return not parsed.problems


def _too_long() -> RefusedError:
    # A new one each time: an exception keeps the frames it went through, and their bodies.
    return RefusedError(413, "too long", f"longer than {LONGEST_BODY} bytes")


async def _body(request: Request) -> bytes:
    """The body. Raises RefusedError when it is too long, too slow or cut off."""
    body = bytearray()
    try:
        async with asyncio.timeout(SLOWEST_BODY):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LONGEST_BODY:
                    raise _too_long()
    except TimeoutError as error:
        raise RefusedError(408, "too slow", f"the body took longer than {SLOWEST_BODY:.0f} s") from error
    except ClientDisconnect as error:
        raise RefusedError(400, "cut off", "the body was cut off") from error
    return bytes(body)
