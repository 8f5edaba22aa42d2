"""The webhook that MinIO and SeaweedFS call for every object."""

import hmac
import logging

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from dropflow.errors import NotificationFormatError
from listeners.intake import Intake
from listeners.parsing import parse_webhook_body

log = logging.getLogger(__name__)

PATH = "/notifications"
LONGEST_BODY = 4 * 2**20
"""Bytes; a MinIO notification is about 1 KB."""


def make_app(intake: Intake, token: SecretStr) -> Starlette:
    """POST /notifications with `Authorization: Bearer <token>`; 2xx only once it is in the ledger."""
    expected = f"Bearer {token.get_secret_value()}".encode()

    async def receive(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            return PlainTextResponse("wrong or missing bearer token\n", 401)
        try:
            body = await _body(request)
        except ClientDisconnect:
            log.info("a webhook call was cut off; its sender or the sweep brings it again")
            return Response(status_code=400)
        if body is None:
            return PlainTextResponse(f"longer than {LONGEST_BODY} bytes\n", 413)
        await take(intake, body)
        return Response(status_code=204)

    async def alive(_: Request) -> Response:
        # MinIO asks with HEAD whether its target is there.
        return Response(status_code=204)

    return Starlette(
        routes=[Route(PATH, receive, methods=["POST"]), Route(PATH, alive, methods=["GET", "HEAD"])]
    )


async def take(intake: Intake, body: bytes) -> None:
    """Record a body. One that cannot be read is kept too: refusing it would block MinIO's queue."""
    try:
        parsed = parse_webhook_body(body)
    except NotificationFormatError as error:
        await intake.keep_unreadable(body, str(error))
    else:
        await intake.record_parsed(parsed, body)


async def _body(request: Request) -> bytes | None:
    """The body, or None when it is too long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_BODY:
            return None
    return bytes(body)
