"""MinIO's listen stream: `GET /{bucket}?events=…`, signed by ourselves, read in chunks.

minio-py's iterator reads byte by byte, reconnects at once and silently, and drops half lines.
What happens while nobody is connected is never announced: the sweep closes that gap.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import uniform
from urllib.parse import quote

import httpx
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from dropflow.errors import DropflowError, NotificationFormatError, PermanentError, TransientError
from dropflow.objects import CREATED_EVENTS, ObjectCreated
from dropflow.settings import Settings
from dropflow.tls import trust, unreachable
from dropflow.unforeseen import contained
from listeners.intake import Intake
from listeners.parsing import parse_stream_line

log = logging.getLogger(__name__)

AHEAD = 20_000
"""Objects read from a stream and not yet in the ledger; beyond that, reading waits."""
PING = 5
"""Seconds between the keep-alives we ask for."""
SILENCE = 4 * PING
"""Seconds without a byte after which the connection is taken for dead."""
LONGEST_LINE = 16 * 2**20
FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0


def signed_request(settings: Settings, bucket: str, prefix: str = "") -> httpx.Request:
    """The request that opens the stream of keys below `prefix`, with AWS signature version 4."""
    assert settings.s3_endpoint
    assert settings.s3_access_key
    assert settings.s3_secret_key
    # MinIO signs repeated parameters in the order given, botocore sorted: they must be both.
    events = "&".join(f"events=s3%3AObjectCreated%3A{name}" for name in sorted(CREATED_EVENTS))
    below = f"&prefix={quote(prefix, safe='')}" if prefix else ""
    url = f"{settings.s3_endpoint}/{bucket}?{events}&ping={PING}{below}"
    request = AWSRequest("GET", url)
    credentials = Credentials(
        settings.s3_access_key.get_secret_value(), settings.s3_secret_key.get_secret_value()
    )
    S3SigV4Auth(credentials, "s3", settings.s3_region).add_auth(request)
    return httpx.Request("GET", url, headers=dict(request.headers.items()))


@asynccontextmanager
async def open_stream(
    settings: Settings, bucket: str, prefix: str = ""
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Connect; the body's chunks. The first chunk (a keep-alive) says that the subscription is live.

    Raises TransientError, or PermanentError when trying again cannot help without a person.
    """
    timeout = httpx.Timeout(5, read=SILENCE)
    async with httpx.AsyncClient(timeout=timeout, verify=trust(settings.ca_file)) as client:
        try:
            response = await client.send(signed_request(settings, bucket, prefix), stream=True)
            try:
                _check(response, bucket)
                yield response.aiter_raw()
            finally:
                await response.aclose()
        except httpx.ReadTimeout as error:
            raise TransientError(
                f"stream of {bucket!r}: silent for {SILENCE} s, without the keep-alives asked for (the last "
                "MinIO releases hold the stream back until some 4 KB have gathered: bind the webhook as well)"
            ) from error
        except httpx.HTTPError as error:
            raise unreachable(f"stream of {bucket!r}", error) from error


def _check(response: httpx.Response, bucket: str) -> None:
    status = response.status_code
    if status in (408, 429) or status >= 500:
        raise TransientError(f"stream of {bucket!r}: the store answered {status}")
    if status in (401, 403):
        raise PermanentError(
            f"stream of {bucket!r}: the store answered {status}: check DROPFLOW_S3_ACCESS_KEY and "
            "DROPFLOW_S3_SECRET_KEY; the key needs s3:ListenBucketNotification on the bucket"
        )
    kind = response.headers.get("content-type", "")
    if status != 200 or not kind.startswith("text/event-stream"):
        raise PermanentError(
            f"stream of {bucket!r}: the store answered {status} {kind or 'without content type'}, no "
            "event stream: only MinIO and its forks have one; set DROPFLOW_LISTEN_STREAM=false"
        )


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Whole lines, as many as each chunk completes; an empty list for a chunk with none.

    A half line at the end of the stream is not given out: the sweep finds what it told of.
    Raises NotificationFormatError when a line grows past LONGEST_LINE.
    """
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise NotificationFormatError(f"a line of the stream is longer than {LONGEST_LINE} bytes")
        # Keep-alive blanks must not pile up before the next record.
        rest = rest.lstrip(b" ")
        yield [line for line in whole if line.strip()]


async def _nobody(_live: bool, _why: str) -> None:
    return None


class Stream:
    """Follows one bucket's stream for ever, reconnecting with back-off and jitter."""

    def __init__(
        self,
        settings: Settings,
        bucket: str,
        intake: Intake,
        *,
        prefix: str = "",
        report: Callable[[bool, str], Awaitable[None]] = _nobody,
    ) -> None:
        """`report` is told when the stream is live, at the first byte of every connection, and why not."""
        self._settings = settings
        self._bucket = bucket
        self._prefix = prefix
        self._intake = intake
        self._report = report
        self._failures = 0
        self._told = ""

    async def run(self) -> None:
        await self._report(False, "connecting")  # noqa: FBT003
        while True:
            try:
                with contained(f"stream of {self._bucket!r}"):
                    await self._follow()
                why = f"stream of {self._bucket!r}: the store ended it; connecting again"
            except DropflowError as error:
                why = str(error)
            # Said once: a store that has no stream says so every time.
            log.log(logging.DEBUG if why == self._told else logging.WARNING, "%s", why)
            self._told = why
            await self._report(False, why)  # noqa: FBT003
            await asyncio.sleep(self._wait())

    async def _follow(self) -> None:
        live, ahead = False, 0
        # MinIO drops events for slow readers: reading goes on while the ledger writes.
        recording: deque[tuple[int, asyncio.Future[None]]] = deque()
        async with open_stream(self._settings, self._bucket, self._prefix) as chunks:
            async for batch in lines(chunks):
                if not live:
                    live, self._failures, self._told = True, 0, ""
                    log.info("stream of %r is live", self._bucket)
                    await self._report(True, "")  # noqa: FBT003
                created = await self._parse(batch)
                done = self._intake.submit(created)
                if done:
                    recording.append((len(created), done))
                    ahead += len(created)
                while recording and (recording[0][1].done() or ahead > AHEAD):
                    number, earliest = recording.popleft()
                    ahead -= number
                    await earliest
        for _, last in recording:
            await last

    async def _parse(self, batch: list[bytes]) -> list[ObjectCreated]:
        """What the lines of one chunk tell; those that cannot be read are kept."""
        created: list[ObjectCreated] = []
        for line in batch:
            created += (await self._intake.read(line, parse_stream_line)).created
        return created

    def _wait(self) -> float:
        """Seconds to the next attempt: doubling, with full jitter so that listeners spread out."""
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        return uniform(FIRST_WAIT / 2, longest)
