"""Records per second into the ledger: by webhook and by stream, beside the same without a ledger.

    .venv/bin/python benchmarks/intake.py

The webhook is the listener's own app under uvicorn in a process of its own; this process posts MinIO's
bodies to it over kept-alive connections. The stream is a fake of MinIO's listen endpoint in a process of
its own that sends as fast as it is read; this process reads it with `Stream`, and fewer lines with
minio-py. Every measurement has a new ledger (SQLite, WAL, synchronous=FULL) and counts what it holds at
the end. Rounds alternate, medians are shown; generator and listener share this machine's cores.
"""

import asyncio
import json
import multiprocessing
import os
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, cast

import uvicorn
from minio import Minio
from pydantic import SecretStr

from dropflow.declarations import load_datasets
from dropflow.ledger import Ledger
from dropflow.objects import ObjectCreated
from dropflow.settings import PROJECT, load_settings
from listeners.http import server_config
from listeners.intake import Intake
from listeners.metrics import Metrics
from listeners.stream import Stream
from listeners.webhook import PATH, make_app

ROUNDS = 5
REQUESTS = 10_000
LINES = 50_000
MINIO_PY_LINES = 100
CONNECTIONS = 32
TOKEN = ACCESS = "benchmark-0123456789"  # noqa: S105 - opens nothing
HOST = "127.0.0.1"
RECORDINGS = PROJECT / "tests" / "data"
GO_CHUNK = 2048
"""Bytes after which Go's HTTP server ends a chunk that nobody flushes."""

_spawn = multiprocessing.get_context("spawn")


class NoLedger:
    """Takes everything at once and keeps nothing."""

    def record(self, created: Iterable[ObjectCreated]) -> int:
        return len(list(created))


def open_ledger(folder: str | None) -> Ledger:
    return Ledger(f"sqlite:///{folder}/ledger.sqlite") if folder else cast(Ledger, NoLedger())


def held(folder: str) -> int:
    """Objects in the ledger that a measurement has left."""
    ledger = open_ledger(folder)
    try:
        return sum(sum(fates.values()) for fates in ledger.counts().values())
    finally:
        ledger.close()


@contextmanager
def running(target: Callable[..., None], *arguments: Any) -> Iterator[int]:
    """The port that a server in a process of its own listens on."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def payloads(form: str, records: int, prefix: str) -> Iterator[bytes]:
    """MinIO's recorded notification of a PUT, for ever, `records` distinct keys in each."""
    recorded = (RECORDINGS / f"minio_{form}.ndjson").read_bytes().splitlines()
    template = json.loads(next(line for line in recorded if b"plain.csv" in line))
    (record,) = template["Records"]
    number = 0
    while True:
        template["Records"] = []
        for _ in range(records):
            number += 1
            key = f"churn/{prefix}{number:07}.csv"
            item = {
                **record["s3"]["object"],
                "key": key.replace("/", "%2F") if form == "webhook" else key,
                "eTag": f"{number:032x}",
            }
            template["Records"].append({**record, "s3": {**record["s3"], "object": item}})
        if form == "webhook":
            template["Key"] = f"raw/{key}"
        yield json.dumps(template, separators=(",", ":")).encode()


# Webhook


def serve_webhook(parent: Connection, folder: str | None) -> None:
    """The listener's webhook, served as the listener does."""
    ledger = open_ledger(folder)
    datasets = load_datasets(PROJECT / "datasets")
    app = make_app(Intake(ledger, datasets), SecretStr(TOKEN), Metrics(ledger))
    config = server_config(app, HOST, 0)
    listening = config.bind_socket()
    listening.listen(1024)
    parent.send(listening.getsockname()[1])
    uvicorn.Server(config).run(sockets=[listening])


def requests(number: int, records: int) -> list[bytes]:
    """POSTs as MinIO's Go client writes them."""
    bodies = payloads("webhook", records, f"{records}-")
    return [
        (
            f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: Go-http-client/1.1\r\n"
            f"Content-Length: {len(body)}\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
        ).encode()
        + body
        for body, _ in zip(bodies, range(number), strict=False)
    ]


def post_all(port: int, posts: list[bytes], connections: int) -> float:
    """Seconds until every request has its 204; one request at a time on each connection."""
    waiting = iter(posts)
    selector = selectors.DefaultSelector()
    sockets = [socket.create_connection((HOST, port)) for _ in range(connections)]
    started = time.perf_counter()
    for one in sockets:
        selector.register(one, selectors.EVENT_READ)
        one.sendall(next(waiting))
    answered = 0
    while answered < len(posts):
        for ready, _ in selector.select(30):
            one = cast(socket.socket, ready.fileobj)
            answer = one.recv(4096)
            if not (answer.startswith(b"HTTP/1.1 204") and answer.endswith(b"\r\n\r\n")):
                raise RuntimeError(f"unexpected answer: {answer[:200]!r}")
            answered += 1
            if (post := next(waiting, None)) is not None:
                one.sendall(post)
    seconds = time.perf_counter() - started
    for one in sockets:
        one.close()
    return seconds


def webhook(posts: list[bytes], records: int, connections: int, *, real: bool) -> float:
    """Records per second, acknowledged; with a real ledger also held by it afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        with running(serve_webhook, folder if real else None) as port:
            seconds = post_all(port, posts, connections)
        if real and held(folder) != len(posts) * records:
            raise RuntimeError(f"{len(posts) * records} records acknowledged, {held(folder)} in the ledger")
    return len(posts) * records / seconds


# Stream


def serve_stream(parent: Connection, number: int, line_per_chunk: bool) -> None:
    """MinIO's listen endpoint: to each caller a keep-alive, then `number` lines, then silence."""
    events = [body + b"\n" for body, _ in zip(payloads("stream", 1, "s"), range(number), strict=False)]
    text = b"".join(events)
    parts = events if line_per_chunk else [text[i : i + GO_CHUNK] for i in range(0, len(text), GO_CHUNK)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    with socket.create_server((HOST, 0)) as server:
        parent.send(server.getsockname()[1])
        while True:
            caller, _ = server.accept()
            threading.Thread(target=_answer_stream, args=(caller, body), daemon=True).start()


def _answer_stream(caller: socket.socket, body: bytes) -> None:
    with caller:
        caller.recv(65536)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        try:
            caller.sendall(head + b'11\r\n{"Records":null}\n\r\n')
            caller.sendall(body)
            caller.recv(1)
        except OSError:
            return  # the reader has read enough


class _UntilAll:
    """A ledger that says when it has recorded so many."""

    def __init__(self, ledger: Ledger, number: int, done: Callable[[], object]) -> None:
        self._ledger = ledger
        self._missing = number
        self._done = done

    def record(self, created: list[ObjectCreated]) -> int:
        new = self._ledger.record(created)
        self._missing -= len(created)
        if self._missing <= 0:
            self._done()
        return new


async def _follow(port: int, ledger: Ledger) -> float:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    began: list[float] = []
    counting = cast(Ledger, _UntilAll(ledger, LINES, partial(loop.call_soon_threadsafe, done.set)))
    intake = Intake(counting, load_datasets(PROJECT / "datasets"))
    settings = load_settings(s3_endpoint=f"http://{HOST}:{port}", s3_access_key=ACCESS, s3_secret_key=ACCESS)

    async def report(live: bool, _why: str) -> None:
        if live:
            began.append(time.perf_counter())

    stream = Stream(settings, "raw", intake, report=report)
    following = asyncio.create_task(stream.run())
    await asyncio.wait_for(done.wait(), 300)
    seconds = time.perf_counter() - began[0]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    return seconds


def stream(port: int, *, real: bool) -> float:
    """Lines per second from the first byte until the last line is recorded."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = open_ledger(folder if real else None)
        seconds = asyncio.run(_follow(port, ledger))
        if real:
            ledger.close()
            if held(folder) != LINES:
                raise RuntimeError(f"{LINES} lines read, {held(folder)} in the ledger")
    return LINES / seconds


def minio_py(port: int) -> float:
    """Events per second that minio-py's own iterator gives out."""
    client = Minio(f"{HOST}:{port}", ACCESS, ACCESS, secure=False, region="us-east-1")
    with client.listen_bucket_notification("raw", events=("s3:ObjectCreated:Put",)) as events:
        next(events)
        started = time.perf_counter()
        for _ in range(MINIO_PY_LINES):
            next(events)
        return MINIO_PY_LINES / (time.perf_counter() - started)


# All of it


def alternating(measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each measure once a round, in turn."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(ROUNDS):
        for name, measure in measures.items():
            found[name].append(measure())
        print(f"round {number + 1} of {ROUNDS}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return found


def show(found: dict[str, list[float]], baselines: Iterable[str]) -> None:
    """Medians and extremes; ratios are medians of each round's own ratio."""
    for name, rates in found.items():
        ratios = "  ".join(
            f"{median(a / b for a, b in zip(rates, found[base], strict=True)):8.2f} x {base}"
            for base in baselines
            if base != name
        )
        print(f"  {name:<34} {median(rates):>8,.0f}/s  ({min(rates):,.0f}-{max(rates):,.0f})  {ratios}")


def main() -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; medians of {ROUNDS} rounds\n")
    for records, connections in ((1, CONNECTIONS), (1, 1), (10, CONNECTIONS)):
        posts = requests(REQUESTS // (5 if connections == 1 or records > 1 else 1), records)
        print(f"webhook, {records} records a request, {connections} connections: records")
        measure = partial(webhook, posts, records, connections)
        rates = alternating(
            {"ledger": partial(measure, real=True), "no ledger": partial(measure, real=False)}
        )
        show(rates, ["no ledger"])
    for line_per_chunk in (False, True):
        print(f"stream, {'a line a chunk' if line_per_chunk else 'chunks of 2,048 bytes'}: lines")
        with running(serve_stream, LINES, line_per_chunk) as port:
            rates = alternating(
                {
                    "ledger": partial(stream, port, real=True),
                    "no ledger": partial(stream, port, real=False),
                    "minio-py, no ledger": partial(minio_py, port),
                }
            )
        show(rates, ["no ledger", "minio-py, no ledger"])
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
