"""The page's routes: they check who asks, call the ledger and the store in threads, and answer."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dropflow import audit_log
from dropflow.datasets import Dataset, Datasets
from dropflow.errors import DropflowError, ObjectMissingError, TransientError
from dropflow.explain import RUNS_SINCE, explain
from dropflow.ledger import SETTLED, Entry, Fate, Ledger, SweepReport
from dropflow.objects import ObjectCreated, ObjectRef, printable
from dropflow.prefect_api import PrefectApi, key_tag
from dropflow.receipts import QUARANTINE, REPORTS, Receipt, latest_receipt
from dropflow.report import to_html
from dropflow.settings import Settings
from dropflow.storage import ObjectStore
from listeners.intake import Intake
from listeners.page import views
from listeners.page.access import Access
from listeners.page.attempts import Attempts
from listeners.page.transfer import Body, announced_length, check_length, sent, small_body

log = logging.getLogger(__name__)

STATIC = Path(__file__).with_name("static")
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
READ_SECONDS = 20.0
LONGEST_TRANSFER = 3600.0
COUNTS_SECONDS = 1.0
"""Counts are as old as this at most: every open page asks for them."""
WRONG_TOKEN_WAIT = 0.5
THREADS, TRANSFERS = 4, 4
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
P = ParamSpec("P")
R = TypeVar("R")
Handler = Callable[[Request], Awaitable[Response]]


def make_page(page: "Page", others: ASGIApp) -> ASGIApp:
    """An app that answers the page's paths, and leaves all others to `others`."""
    if page.access.why_closed:
        log.warning("%s", page.access.why_closed)
    routes = {
        **dict.fromkeys(FILES, ("GET", page.file)),
        "/setup": ("GET", page.signed_in(page.setup)),
        "/objects": ("GET", page.signed_in(page.objects)),
        "/explain": ("GET", page.signed_in(page.explain)),
        "/run": ("GET", page.signed_in(page.run)),
        "/report": ("GET", page.signed_in(page.report)),
        "/output": ("GET", page.signed_in(page.output)),
        "/quarantine": ("GET", page.signed_in(page.quarantine)),
        "/replay": ("POST", page.signed_in(page.replay)),
        "/upload": ("PUT", page.signed_in(page.upload)),
        "/login": ("POST", page.log_in),
        "/logout": ("POST", page.log_out),
    }
    app = Starlette(
        routes=[
            Route(path, page.checked(handler), methods=[method]) for path, (method, handler) in routes.items()
        ],
        exception_handlers={HTTPException: _refused, DropflowError: _failed},
    )

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in routes:
            await app(scope, receive, _with_headers(send))
        else:
            await others(scope, receive, send)

    return served


class Page:
    """What each route does. Whatever blocks does so in a few threads of the page's own."""

    def __init__(
        self,
        settings: Settings,
        datasets: Datasets,
        ledger: Ledger,
        store: ObjectStore,
        prefect: PrefectApi,
        intake: Intake,
    ) -> None:
        """Raises SettingsError."""
        self.access = Access(settings)
        self._attempts = Attempts()
        self._settings = settings
        self._datasets = datasets
        self._ledger = ledger
        self._store = store
        self._prefect = prefect
        self._intake = intake
        self._most = int(settings.page_upload_mib * 2**20)
        self._threads = ThreadPoolExecutor(THREADS, "page")
        self._transfers = ThreadPoolExecutor(TRANSFERS, "page-transfer")
        self._counted: tuple[float, dict[str, dict[Fate, int]], SweepReport | None] = (0.0, {}, None)

    def checked(self, handler: Handler) -> Handler:
        async def check(request: Request) -> Response:
            self.access.check_host(request)
            if self.access.why_closed:
                raise HTTPException(503, self.access.why_closed)
            if request.method not in ("GET", "HEAD"):
                self.access.check_own_script(request)
            return await handler(request)

        return check

    def signed_in(self, handler: Handler) -> Handler:
        async def check(request: Request) -> Response:
            self.access.check_signed_in(request)
            return await handler(request)

        return check

    async def file(self, request: Request) -> Response:
        name, kind = FILES[request.url.path]
        return Response(await self._do((STATIC / name).read_bytes), media_type=kind)

    async def log_in(self, request: Request) -> Response:
        given = _json(await small_body(request)).get("token")
        address = request.client.host if request.client else ""
        if self._attempts.too_many(address):
            raise HTTPException(429, "Too many wrong tokens: try again in a minute.", {"retry-after": "60"})
        cookie = self.access.cookie(given) if isinstance(given, str) else None
        if cookie is None:
            self._attempts.wrong(address)
            await asyncio.sleep(WRONG_TOKEN_WAIT)
            raise HTTPException(403, "That is not the page's token.")
        return Response(status_code=204, headers={"set-cookie": cookie})

    async def log_out(self, _: Request) -> Response:
        return Response(status_code=204, headers={"set-cookie": self.access.no_cookie()})

    async def setup(self, _: Request) -> Response:
        return _answer({**views.setup(self._datasets, self._most), "signed_in": self.access.asks})

    async def objects(self, request: Request) -> Response:
        asked = request.query_params
        try:
            wanted = views.wanted(asked.get("search", ""), asked.get("dataset"), asked.get("fate", ""))
            after = views.place(asked.get("after", ""))
            limit = min(max(int(asked.get("limit", views.MOST_ROWS)), 1), views.MOST_ROWS)
        except ValueError as error:
            raise HTTPException(400, f"not a question for objects: {printable(str(error))}") from error
        counts, sweep = await self._do(self._counts)
        page = await self._do(self._ledger.pages.page, wanted, list(counts), limit, after)
        answer = _answer(views.listing(page, counts, sweep))
        etag = f'"{sha256(answer.body).hexdigest()[:32]}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"etag": etag})
        answer.headers["etag"] = etag
        return answer

    def _counts(self) -> tuple[dict[str, dict[Fate, int]], SweepReport | None]:
        at, counts, sweep = self._counted
        if time.monotonic() > at + COUNTS_SECONDS:
            counts, sweep = self._ledger.counts(), self._ledger.watch.last_sweep()
            self._counted = (time.monotonic(), counts, sweep)
        return counts, sweep

    async def explain(self, request: Request) -> Response:
        found = await self._entry(request.query_params.get("object"))
        place = (found.ref.bucket, found.ref.key)
        told = await self._do(
            explain, self._settings, self._datasets, self._store, self._ledger, self._prefect, place
        )
        return _answer(views.story(told))

    async def replay(self, request: Request) -> Response:
        """Deliver an object again; with `force` it is prepared again although nothing has changed."""
        asked = _json(await small_body(request))
        found, force = await self._entry(asked.get("object")), asked.get("force") is True
        if found.fate not in SETTLED or not found.dataset:
            raise HTTPException(409, f"it is {found.fate}: there is nothing to deliver again")
        if not await self._do(self._ledger.pages.is_newest, found):
            raise HTTPException(409, "other bytes have come under its key since: replay those")
        if not await self._do(partial(self._ledger.replay, [found], force=force)):
            raise HTTPException(409, "it has changed just now: look again")
        what = "rerun" if force else "replay"
        await self._do(partial(self._note, request, what, found.ref.url))
        self._counted = (0.0, {}, None)
        self._intake.arrived.set()
        return Response(status_code=204)

    def _note(self, request: Request, what: str, url: str) -> None:
        address = request.client.host if request.client else "unknown"
        audit_log.record(self._settings, what, who=f"page@{address}", **audit_log.objects([url]))

    async def upload(self, request: Request) -> Response:
        try:
            check_length(announced_length(request), self._most)
            return await self._upload(request)
        except HTTPException as error:
            # What is left of the body is not read: the connection cannot be used again.
            return PlainTextResponse(error.detail, error.status_code, {"connection": "close"})
        except DropflowError as error:
            status = 503 if isinstance(error, TransientError) else 400
            return PlainTextResponse(str(error), status, {"connection": "close"})

    async def _upload(self, request: Request) -> Response:
        asked = request.query_params
        dataset = self._datasets[asked.get("dataset", "")]
        key = views.upload_key(self._datasets, dataset, asked.get("key", ""))
        if asked.get("replace") != "1" and await self._do(self._store.exists, dataset.bucket, key):
            raise HTTPException(409, f"{printable(key, 300)} is there already")
        upload = partial(self._store.upload_stream, Body(request, self._most), dataset.bucket, key)
        ref = await self._do(upload, pool=self._transfers, seconds=LONGEST_TRANSFER)
        await self._do(partial(self._note, request, "upload", ref.url))
        # The store tells of it as well, or the next sweep; here it is seen at once.
        await self._intake.record([ObjectCreated(ref, "page")])
        return _answer({"key": printable(key, views.LONGEST_KEY), "size": ref.size}, 201)

    async def run(self, request: Request) -> Response:
        """To the run in the Prefect UI: of the receipt, or else the last one that has the object's key."""
        found = await self._entry(request.query_params.get("object"))
        run = await self._do(self._run_of, found)
        if not _UUID.fullmatch(run):
            raise HTTPException(404, "no run of it is known")
        return RedirectResponse(self._settings.run_url(run), 303)

    def _run_of(self, found: Entry) -> str:
        if found.fate in (Fate.PROCESSED, Fate.REJECTED):
            try:
                return self._receipt(found)[1].flow_run_id
            except HTTPException:
                pass
        runs = self._prefect.runs_tagged(key_tag(found.ref.key), datetime.now(UTC) - RUNS_SINCE)
        return str(runs[0]["id"]) if runs else ""

    async def report(self, request: Request) -> Response:
        dataset, receipt = await self._do(
            self._receipt, await self._entry(request.query_params.get("object"))
        )
        answer: Response
        if quality := receipt.quality:
            answer = HTMLResponse(await self._do(to_html, quality))
        else:
            # An earlier version has stored the page.
            ref = _beside(dataset, REPORTS, receipt.report_key)
            answer = await self._download(ref, "text/html; charset=utf-8")
        answer.headers["content-security-policy"] = REPORT_POLICY
        return answer

    async def quarantine(self, request: Request) -> Response:
        dataset, receipt = await self._do(
            self._receipt, await self._entry(request.query_params.get("object"))
        )
        ref = _beside(dataset, QUARANTINE, receipt.quarantine_key)
        return await self._download(ref, name=f"quarantined.{ref.key.rpartition('.')[2]}")

    async def output(self, request: Request) -> Response:
        ref = await self._do(self._output_of, await self._entry(request.query_params.get("object")))
        return await self._download(ref, name=ref.name)

    async def _download(
        self, ref: ObjectRef, kind: str = "application/octet-stream", name: str = ""
    ) -> Response:
        opened = await self._do(self._store.open, ref.bucket, ref.key)
        if ref.etag and opened.ref.etag != ref.etag:
            opened.close()
            raise HTTPException(404, "it was replaced since")
        headers = {"content-length": str(opened.ref.size)}
        if name:
            headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
        return StreamingResponse(sent(opened, self._do), headers=headers, media_type=kind)

    async def _entry(self, given: Any) -> Entry:
        """The entry that a token names. Raises HTTPException."""
        try:
            number = views.number(given if isinstance(given, str) else "")
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        found = await self._do(self._ledger.pages.entry, number)
        if found is None or views.token(found) != given:
            raise HTTPException(404, "the ledger does not know this object (any more)")
        return found

    def _receipt(self, found: Entry) -> tuple[Dataset, Receipt]:
        """Of exactly these bytes; what it names lies in the dataset's own folders. Raises HTTPException."""
        dataset = self._datasets.by_name.get(found.dataset)
        told = latest_receipt(self._store, dataset, found.ref) if dataset else None
        if dataset is None or told is None:
            raise HTTPException(404, "it has no receipt")
        return dataset, told[1]

    def _output_of(self, found: Entry) -> ObjectRef:
        dataset, receipt = self._receipt(found)
        output = receipt.output
        if output.bucket != dataset.output_bucket or not output.key.startswith(f"{dataset.name}/"):
            raise HTTPException(404, "it has no output")
        return output

    async def _do(
        self,
        work: Callable[..., R],
        *given: Any,
        pool: ThreadPoolExecutor | None = None,
        seconds: float = READ_SECONDS,
    ) -> R:
        """Have a thread do it. Raises HTTPException when it takes too long; the thread goes on."""
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(
                    pool or self._threads, partial(work, *given)
                )
        except TimeoutError as error:
            raise HTTPException(503, "it takes too long: the ledger or the store is busy") from error


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "expected JSON") from error
    return found if isinstance(found, dict) else {}


def _answer(content: Any, status: int = 200) -> Response:
    # Escaped to ASCII: whatever a name holds reaches the browser as it is.
    return Response(json.dumps(content, default=datetime.isoformat), status, media_type="application/json")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(error.detail, error.status_code, error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    if isinstance(error, ObjectMissingError):
        return PlainTextResponse("it is not in the store (any more)", 404)
    log.warning("the page: %s", error)
    status = 503 if isinstance(error, TransientError) else 400
    return PlainTextResponse(printable(str(error), 500), status)


def _with_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return with_headers


def _beside(dataset: Dataset, folder: str, key: str) -> ObjectRef:
    """What a receipt names in this folder of the dataset. Raises HTTPException."""
    if not key.startswith(f"{folder}{dataset.name}/"):
        raise HTTPException(404, "there is none of it")
    return ObjectRef(dataset.output_bucket, key)
