"""The listen stream against a server that behaves as MinIO's can: cut, half, silent, refusing."""

import asyncio
import itertools
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from serving import QuietHandler, serving
from test_recordings import DATA, DROPPED
from test_webhook import CountingLedger

from dropflow.datasets import Datasets
from dropflow.declarations import load_datasets
from dropflow.errors import PermanentError, TransientError
from dropflow.ledger import Fate, Ledger
from dropflow.objects import ObjectRef
from dropflow.settings import PROJECT, Settings
from listeners import stream
from listeners.intake import Intake
from listeners.stream import Stream, lines, open_stream

Handler = Callable[[BaseHTTPRequestHandler], None]


def line(key: str, folder: str = "churn/", bucket: str = "raw") -> bytes:
    item = {"key": f"{folder}{key}", "eTag": key, "size": 1}
    event = {"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": item}}
    return json.dumps({"Records": [event]}).encode() + b"\n"


def streaming(*chunks: bytes, kind: str = "text/event-stream") -> Handler:
    """Answer 200 with these chunks, then close the connection without the final chunk."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for chunk in chunks:
            request.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            request.wfile.flush()

    return answer


def ended(*chunks: bytes) -> Handler:
    def answer(request: BaseHTTPRequestHandler) -> None:
        streaming(*chunks)(request)
        request.wfile.write(b"0\r\n\r\n")

    return answer


def status(code: int) -> Handler:
    return lambda request: request.send_error(code)


@contextmanager
def server(*answers: Handler) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers in turn, the last one again and again; its address and requests."""
    turns = itertools.chain(answers, itertools.repeat(answers[-1]))
    requests: list[str] = []

    class Answering(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            requests.append(f"{self.path} {self.headers.get('Authorization')}")
            self.close_connection = True
            next(turns)(self)

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Answering)) as httpd:
        yield f"http://127.0.0.1:{httpd.server_port}", requests


@pytest.fixture
def datasets() -> Datasets:
    return load_datasets(PROJECT / "datasets")


def follow(
    settings: Settings, ledger: Ledger, datasets: Datasets, expected: int, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Follow the stream until the ledger has `expected` objects; how often it connected."""
    monkeypatch.setattr(stream, "FIRST_WAIT", 0.01)
    reports: list[bool] = []
    intake = Intake(ledger, datasets)

    async def report(live: bool, _why: str) -> None:
        reports.append(live)

    until(Stream(settings, "raw", intake, report=report), lambda: len(keys(ledger)) >= expected)
    return reports.count(True)


def until(followed: Stream, condition: Callable[[], bool]) -> None:
    """Follow the stream until the condition is true."""

    async def run() -> None:
        task = asyncio.create_task(followed.run())
        async with asyncio.timeout(20):
            while not condition():
                assert not task.done(), task.exception()
                await asyncio.sleep(0.02)
        task.cancel()

    asyncio.run(run())


def at(settings: Settings, endpoint: str) -> Settings:
    return settings.model_copy(update={"s3_endpoint": endpoint})


def refs(ledger: Ledger) -> list[ObjectRef]:
    return [entry.ref for entry in ledger.search(fates=[Fate.PENDING])]


def keys(ledger: Ledger) -> list[str]:
    return [ref.key.removeprefix("churn/") for ref in refs(ledger)]


def test_the_recorded_stream_of_a_real_minio(
    settings: Settings, ledger: Ledger, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = (DATA / "minio_stream.ndjson").read_bytes()
    chunks = [b" ", *(recorded[at : at + 1000] for at in range(0, len(recorded), 1000))]
    with server(ended(*chunks)) as (endpoint, _):
        # One of the objects was overwritten: eleven in all.
        follow(at(settings, endpoint), ledger, datasets, len(DROPPED) + 1, monkeypatch)
    assert {ref.key for ref in refs(ledger)} == DROPPED
    assert [ref.key for ref in refs(ledger) if ref.modified is None] == []


def test_lines_in_any_cut_with_keep_alives_between(
    settings: Settings, ledger: Ledger, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = b"   " + line("a") + b'{"Records":null}\n' + b"  " + line("b") + b"\n \n" + line("ü")
    chunks = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    with server(ended(*chunks)) as (endpoint, _):
        follow(at(settings, endpoint), ledger, datasets, 3, monkeypatch)
    assert keys(ledger) == ["a", "b", "ü"]
    assert ledger.unreadable() == 0


def test_cut_connections_half_lines_and_refusals_are_survived(
    settings: Settings, ledger: Ledger, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = line("half")[:40]
    answers = [
        streaming(b" ", line("a"), half),
        status(503),
        status(403),
        ended(b" "),
        streaming(b"<xml>a bucket listing</xml>", kind="application/xml"),
        streaming(b" ", line("b")),
    ]
    with server(*answers) as (endpoint, requests):
        connections = follow(at(settings, endpoint), ledger, datasets, 2, monkeypatch)
    assert keys(ledger) == ["a", "b"], "half a line is no news; the sweep finds its object"
    assert connections >= 3, "each live connection asks for a sweep"
    assert len(requests) >= 6


def test_a_line_that_is_no_notification_is_kept_and_passed_over(
    settings: Settings, ledger: Ledger, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(ended(b" ", b"no json\n", b'{"Records":[{}]}\n', line("after"))) as (endpoint, _):
        follow(at(settings, endpoint), ledger, datasets, 1, monkeypatch)
    assert ledger.unreadable() == 2


def test_objects_of_other_buckets_and_folders_are_not_recorded(
    settings: Settings, ledger: Ledger, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = line("x", bucket="elsewhere") + line("output", bucket="processed")
    folder = line("folder/")
    with server(ended(b" ", other, folder, line("a"))) as (endpoint, _):
        follow(at(settings, endpoint), ledger, datasets, 1, monkeypatch)
    assert keys(ledger) == ["a"]


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (status(503), TransientError, "answered 503"),
        (status(429), TransientError, "answered 429"),
        (status(403), PermanentError, "s3:ListenBucketNotification"),
        (streaming(b"<xml/>", kind="application/xml"), PermanentError, "DROPFLOW_LISTEN_STREAM=false"),
        (status(404), PermanentError, "no event stream"),
    ],
)
def test_each_refusal_is_told_apart(
    settings: Settings, answer: Handler, error: type[Exception], told: str
) -> None:
    async def connect(endpoint: str) -> None:
        async with open_stream(at(settings, endpoint), "raw"):
            pass

    with server(answer) as (endpoint, _), pytest.raises(error, match=re.escape(told)):
        asyncio.run(connect(endpoint))


def test_a_store_that_is_not_there_is_transient(settings: Settings) -> None:
    async def connect() -> None:
        async with open_stream(at(settings, "http://127.0.0.1:9"), "raw"):
            pass

    with pytest.raises(TransientError):
        asyncio.run(connect())


def test_silence_past_the_ping_ends_the_connection(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SILENCE", 0.3)
    release = threading.Event()

    def silent(request: BaseHTTPRequestHandler) -> None:
        streaming(b" ")(request)
        release.wait(20)

    async def read(endpoint: str) -> None:
        async with open_stream(at(settings, endpoint), "raw") as chunks:
            async for _ in chunks:
                pass

    with server(silent) as (endpoint, _):
        with pytest.raises(TransientError, match="silent for"):
            asyncio.run(read(endpoint))
        release.set()


def test_the_request_is_signed_and_names_the_events(settings: Settings) -> None:
    request = stream.signed_request(settings, "raw")
    assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=testing-access/")
    assert "s3%3AObjectCreated%3APut&" in str(request.url)
    assert "ObjectCreated%3A*" not in str(request.url), "tagging would trigger the pipeline"
    assert "testing-secret" not in str(request.headers)
    assert "prefix" not in str(request.url)


def test_a_prefix_is_part_of_what_is_signed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[str] = []
    real = S3SigV4Auth.canonical_request

    def canonical(self: S3SigV4Auth, request: Any) -> str:
        signed.append(real(self, request))
        return signed[-1]

    monkeypatch.setattr(S3SigV4Auth, "canonical_request", canonical)
    request = stream.signed_request(settings, "processed", "_receipts/ä &+/")
    sent = request.url.raw_path.decode().partition("?")[2]
    assert sent.endswith("&prefix=_receipts%2F%C3%A4%20%26%2B%2F")
    # MinIO signs the parameters in the order given, botocore sorted.
    assert signed[0].splitlines()[2] == sent


def test_receipts_are_asked_for_by_prefix_and_told_to_who_reads_them(
    settings: Settings, ledger: Ledger, datasets: Datasets
) -> None:
    receipts = [line(f"{n}.f.json", "_receipts/churn/a.csv/", "processed") for n in range(3)]
    intake = Intake(ledger, datasets)
    with server(ended(b" ", *receipts)) as (endpoint, requests):
        followed = Stream(at(settings, endpoint), "processed", intake, prefix="_receipts/")
        until(followed, lambda: len(intake.receipts) >= 3)
    assert intake.receipts[0] == ("processed", "_receipts/churn/a.csv/0.f.json")
    assert intake.told.is_set()
    assert not intake.arrived.is_set()
    assert keys(ledger) == []
    assert requests[0].startswith("/processed?")
    assert "prefix=_receipts%2F" in requests[0]


def test_whether_the_stream_is_live_is_reported_and_why_not(
    settings: Settings, ledger: Ledger, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FIRST_WAIT", 0.01)
    told: list[tuple[bool, str]] = []

    async def report(live: bool, why: str) -> None:
        told.append((live, why))

    with server(status(503), ended(b" ", line("a"), line("b")), status(403)) as (endpoint, _):
        followed = Stream(at(settings, endpoint), "raw", Intake(ledger, datasets), report=report)
        until(followed, lambda: len(told) >= 5)
    expected = [False, False, True, False, False]
    assert [live for live, _ in told[:5]] == expected, "once a connection, not a line"
    reasons = [why for live, why in told[:5] if not live]
    assert reasons[0] == "connecting"
    assert ["answered 503" in reasons[1], "ended it" in reasons[2], "403" in reasons[3]] == [True] * 3


def test_what_one_chunk_tells_is_recorded_together(
    settings: Settings, datasets: Datasets, tmp_path: Path
) -> None:
    ledger = CountingLedger(f"sqlite:///{tmp_path}/counted.sqlite")
    with server(ended(b" ", b"".join(line(str(number)) for number in range(500)))) as (endpoint, _):
        followed = Stream(at(settings, endpoint), "raw", Intake(ledger, datasets))
        until(followed, lambda: len(keys(ledger)) >= 500)
    assert ledger.transactions < 50, "TCP may have cut the chunk"
    ledger.close()


def test_a_stream_goes_on_when_the_ledger_could_not_be_reached(
    settings: Settings, datasets: Datasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FIRST_WAIT", 0.01)
    ledger = CountingLedger(f"sqlite:///{tmp_path}/counted.sqlite")
    ledger.errors = [TransientError("the ledger: locked")] * 2
    with server(ended(b" ", line("a"))) as (endpoint, _):
        followed = Stream(at(settings, endpoint), "raw", Intake(ledger, datasets))
        until(followed, lambda: keys(ledger) == ["a"])
    ledger.close()


def test_an_endless_line_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LONGEST_LINE", 1000)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 300

    async def read() -> None:
        async for _ in lines(endless()):
            pass

    with pytest.raises(stream.NotificationFormatError, match="longer than 1000 bytes"):
        asyncio.run(read())
