"""A real listener process under attack at its webhook: what it answers, keeps, writes and takes of memory."""

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import PATIENCE, wait_until
from pydantic import SecretStr
from starlette.testclient import TestClient
from test_parsing import body, record, seaweed

from dropflow.declarations import load_datasets
from dropflow.embedded.processes import LOOPBACK, free_port
from dropflow.ledger import Ledger
from dropflow.settings import PROJECT
from listeners import webhook
from listeners.intake import Intake
from listeners.metrics import Metrics
from listeners.webhook import LONGEST_BODY, PATH

TOKEN = "a-token-for-the-tests"
TOKEN_LINE = f"Authorization: Bearer {TOKEN}\r\n".encode()
CHUNKED = b"Transfer-Encoding: chunked\r\n"
MIB = 2**20
HUGE = 100 * MIB
MOST_MIB = 80
"""MiB that no attack may make the listener grow beyond."""
IN_BUFFERS = 40 * MIB
"""Bytes a caller may get rid of, into the buffers of both sockets, although nobody reads them."""
AT_ONCE = 20

SERVE = """
import asyncio, json, sys
from pathlib import Path
import uvicorn
import dropflow.ledger.ledger
import listeners.webhook
from dropflow.logs import log_to_stderr
from dropflow.settings import load_settings
from listeners.service import serve

options = json.loads(sys.argv[1])
for name, value in options["constants"].items():
    module, _, constant = name.rpartition(".")
    assert hasattr(sys.modules[module], constant), name
    setattr(sys.modules[module], constant, value)
if options["parser"] != "default":
    class Config(uvicorn.Config):
        def __init__(self, app, **chosen):
            super().__init__(app, **{**chosen, "http": options["parser"]})
    uvicorn.Config = Config
log_to_stderr()
asyncio.run(serve(load_settings(Path("data"), env_file=Path(".env"), **options["settings"])))
"""


@dataclass
class Server:
    """A listener process whose store and Prefect server are not there."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    kib_before: int = 0
    log_before: int = 0

    def call(self, content: bytes, timeout: float = 30) -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return self.request("POST", PATH, content=content, headers=headers, timeout=timeout)

    def request(self, method: str, path: str, timeout: float = 30, **options: Any) -> httpx.Response:
        return httpx.request(method, f"http://{LOOPBACK}:{self.port}{path}", timeout=timeout, **options)

    def healthy(self) -> bool:
        assert self.process.poll() is None, self.log()
        with suppress(httpx.HTTPError):
            return self.request("GET", "/healthz").status_code == 200
        return False

    def connect(self) -> socket.socket:
        return socket.create_connection((LOOPBACK, self.port), timeout=30)

    def attack(self, head: bytes, chunks: Iterable[bytes] = ()) -> tuple[int, bytes]:
        """Send until all is sent or the connection is cut; bytes sent after the head, and the answer."""
        sent = 0
        with self.connect() as connection:
            with suppress(OSError):
                connection.sendall(head)
                for chunk in chunks:
                    connection.sendall(chunk)
                    sent += len(chunk)
            connection.settimeout(5 if sent >= HUGE else 30)  # what was all taken is not cut off any more
            return sent, received(connection)

    def post(self, headers: bytes, *content: bytes) -> bytes:
        """The whole answer to one POST, byte for byte."""
        return self.attack(post(headers), content)[1]

    def at_once(self, headers: bytes, *contents: Iterable[bytes]) -> list[bytes]:
        """The answers to POSTs that are sent side by side."""
        with ThreadPoolExecutor(len(contents)) as callers:
            return [answer for _, answer in callers.map(self.attack, repeat(post(headers)), contents)]

    def known(self) -> set[str]:
        return {key for (key,) in self.rows("SELECT key FROM objects")}

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.folder / "data" / "ledger.sqlite")) as db:
            return db.execute(query).fetchall()

    def log(self) -> str:
        """What was logged since the test began."""
        # Not read_text, which would turn a lone CR into a line's end.
        return (self.folder / "log").read_bytes()[self.log_before :].decode()

    def kib(self, name: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(rf"{name}:\s+(\d+) kB", status)[0])

    def grown(self) -> int:
        """MiB the process has taken at most, beyond what it had when the test began."""
        return (self.kib("VmHWM") - self.kib_before) // 1024

    def begin(self) -> None:
        """Forget what earlier tests did."""
        wait_until(self.healthy, what="the listener's health")
        with closing(sqlite3.connect(self.folder / "data" / "ledger.sqlite", timeout=30)) as db, db:
            for table in ("objects", "deliveries", "story", "unreadable"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
        self.log_before = (self.folder / "log").stat().st_size
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # VmHWM becomes VmRSS
        self.kib_before = self.kib("VmRSS")


def post(headers: bytes, path: str = PATH) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: dropflow\r\nConnection: close\r\n".encode() + headers + b"\r\n"


def received(connection: socket.socket) -> bytes:
    """Everything until the other side closes, cuts or is silent."""
    answer = b""
    with suppress(OSError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    return int(found[1]) if found else 0


def length(number: int) -> bytes:
    return b"Content-Length: %d\r\n" % number


def huge(total: int = HUGE) -> Iterator[bytes]:
    return repeat(b"x" * 65536, total // 65536)


def in_chunks(total: int = HUGE) -> Iterator[bytes]:
    yield from repeat(b"10000\r\n" + b"x" * 65536 + b"\r\n", total // 65536)
    yield b"0\r\n\r\n"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


LEDGER = {f"work/data/ledger.sqlite{ending}" for ending in ("", "-wal", "-shm")}
Start = Callable[[str, dict[str, float]], Server]


def start(folder: Path, parser: str, constants: dict[str, float], running: ExitStack) -> Server:
    folder.mkdir()
    port = free_port()
    settings = {
        "s3_endpoint": f"http://{LOOPBACK}:9",
        "s3_access_key": "testing-access",
        "s3_secret_key": "testing-secret",
        "prefect_api_url": f"http://{LOOPBACK}:9/api",
        "listen_stream": False,
        "webhook_port": port,
        "webhook_token": TOKEN,
    }
    given = json.dumps({"parser": parser, "constants": constants, "settings": settings})
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}
    command = [sys.executable, "-c", SERVE, given]
    log = running.enter_context((folder / "log").open("wb"))
    process = running.enter_context(subprocess.Popen(command, cwd=folder, env=environment, stderr=log))
    running.callback(process.kill)
    return Server(process, port, folder)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Processes by parser and changed constants; one that is not there any more is started anew."""
    found: dict[str, Server] = {}
    with ExitStack() as running:

        def get(parser: str, constants: dict[str, float]) -> Server:
            name = f"{parser} {constants}"
            if name not in found or found[name].process.poll() is not None:
                found[name] = start(tmp_path_factory.mktemp("attacked") / "work", parser, constants, running)
            return found[name]

        yield get


@pytest.fixture
def options() -> dict[str, float]:
    """What a test changes of the product's constants before the process starts."""
    return {}


@pytest.fixture
def server(servers: Start, request: pytest.FixtureRequest, options: dict[str, float]) -> Iterator[Server]:
    """A listener. Whatever is done to it, afterwards it is there, works, and has kept to its limits."""
    server = servers(getattr(request, "param", "default"), options)
    server.begin()
    before = files(server.folder.parent)
    yield server
    try:
        assert server.process.poll() is None, server.log()
        assert server.call(body(record("churn/after.csv"))).status_code == 204
        assert "churn/after.csv" in server.known()
        assert files(server.folder.parent) - before <= LEDGER, "something was written outside the ledger"
        assert "Traceback" not in server.log()
        assert server.grown() < MOST_MIB
    except BaseException:
        server.process.kill()  # the next test shall not suffer from it
        server.process.wait()
        raise


both_parsers = pytest.mark.parametrize("server", ["default", "h11"], indirect=True)


# Who may call


def test_a_wrong_or_missing_token_is_refused_and_nothing_is_recorded(server: Server) -> None:
    content = body(record("churn/forged.csv"))
    given = [
        b"",
        b"Authorization:\r\n",
        b"Authorization: Bearer\r\n",
        b"Authorization: Bearer wrong\r\n",
        b"Authorization: bearer %s\r\n" % TOKEN.encode(),
        b"Authorization: Basic %s\r\n" % TOKEN.encode(),
        b"Authorization: Bearer %s\r\n" % TOKEN[:-1].encode(),
        b"Authorization: Bearer %sx\r\n" % TOKEN.encode(),
        b"Authorization: Bearer \xff\xfe\r\n",
        b"Authorization: Bearer wrong\r\n" + TOKEN_LINE,
        b"X-Authorization: Bearer %s\r\n" % TOKEN.encode(),
        b"Authorization: " + b"x" * 10_000 + b"\r\n",
    ]
    answers = [server.post(headers + length(len(content)), content) for headers in given]
    assert [status(answer) for answer in answers] == [401] * len(given)
    assert not [answer for answer in answers if TOKEN.encode() in answer]
    assert "churn/forged.csv" not in server.known()
    assert TOKEN not in server.log()


def test_the_token_is_compared_in_constant_time(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = webhook.hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(webhook.hmac, "compare_digest", compare)
    intake = Intake(ledger, load_datasets(PROJECT / "datasets"))
    client = TestClient(webhook.make_app(intake, SecretStr(TOKEN), Metrics(ledger)))
    for given in ("Bearer wrong", f"Bearer {TOKEN}"):
        client.post(PATH, content=body(record()), headers={"Authorization": given})
    expected = f"Bearer {TOKEN}".encode()
    assert compared == [(b"Bearer wrong", expected), (expected, expected)]


@both_parsers
def test_without_the_token_a_huge_body_is_answered_without_being_read(server: Server) -> None:
    assert status(server.post(length(HUGE))) == 401, "before a single byte of it was sent"
    assert status(server.post(CHUNKED)) == 401
    sent, answer = server.attack(post(length(HUGE)), huge())
    assert (status(answer), sent < IN_BUFFERS) == (401, True)
    sent, answer = server.attack(post(CHUNKED), in_chunks())
    assert (status(answer), sent < IN_BUFFERS) == (401, True)
    assert not server.post(b"Expect: 100-continue\r\n" + length(HUGE)).startswith(b"HTTP/1.1 100")


def test_other_methods_and_paths_are_refused_without_keeping_their_bodies(server: Server) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert server.request(method, PATH).status_code == 405
    for path, expected in (
        ("/healthz", 405),
        ("/metrics", 405),
        ("/nothing", 404),
        ("/../../etc/passwd", 404),
    ):
        assert status(server.attack(post(length(HUGE), path), huge())[1]) == expected
    assert server.request("GET", "/notifications/../data/ledger.sqlite").status_code == 404
    assert server.request("HEAD", PATH).status_code == 204


# Bodies that are too long, too slow, or never end


@both_parsers
def test_a_huge_body_is_refused(server: Server) -> None:
    assert status(server.post(TOKEN_LINE + length(HUGE))) == 413, "as soon as it was announced"
    assert status(server.attack(post(TOKEN_LINE + length(HUGE)), huge())[1]) == 413
    sent, answer = server.attack(post(TOKEN_LINE + CHUNKED), in_chunks())
    assert (status(answer), sent < IN_BUFFERS) == (413, True)
    assert status(server.post(TOKEN_LINE + length(LONGEST_BODY + 1), b"x" * LONGEST_BODY)) == 413
    assert server.rows("SELECT * FROM unreadable") == []


@both_parsers
def test_many_huge_bodies_at_once_are_refused_in_little_memory(server: Server) -> None:
    announced = server.at_once(TOKEN_LINE + length(HUGE), *(huge() for _ in range(AT_ONCE)))
    chunked = server.at_once(TOKEN_LINE + CHUNKED, *(in_chunks() for _ in range(AT_ONCE)))
    assert {status(answer) for answer in announced + chunked} == {413}


def test_a_refused_body_is_not_kept_in_memory(server: Server) -> None:
    for _ in range(10):
        answers = server.at_once(TOKEN_LINE + CHUNKED, *(in_chunks(4 * MIB) for _ in range(AT_ONCE)))
        assert {status(answer) for answer in answers} == {413}


def test_a_body_of_the_greatest_length_is_read(server: Server) -> None:
    content = body(record("churn/padded.csv")).ljust(LONGEST_BODY)
    answers = server.at_once(TOKEN_LINE + length(LONGEST_BODY), *([content] for _ in range(AT_ONCE)))
    assert {status(answer) for answer in answers} == {204}
    assert "churn/padded.csv" in server.known()


@both_parsers
@pytest.mark.parametrize("options", [{"listeners.webhook.SLOWEST_BODY": 0.5}])
def test_a_trickling_body_is_cut_off_at_the_limit(server: Server) -> None:
    def trickle() -> Iterator[bytes]:
        for _ in range(300):
            yield b"1\r\n \r\n"
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(0.05)

    answers = server.at_once(TOKEN_LINE + CHUNKED, *(trickle() for _ in range(AT_ONCE)))
    assert {status(answer) for answer in answers} == {408}
    assert status(server.post(TOKEN_LINE + length(100), b"{")) == 408, "silent after its first byte"


def test_slow_callers_do_not_keep_a_good_one_from_being_served(server: Server) -> None:
    with ExitStack() as slow:
        for _ in range(webhook.MOST_BODIES - 1):
            connection = slow.enter_context(server.connect())
            connection.sendall(post(TOKEN_LINE + length(1000)) + b"{")
        assert server.call(body(record("churn/meanwhile.csv"))).status_code == 204


@pytest.mark.parametrize("options", [{"listeners.webhook.SLOWEST_BODY": 0.5}])
def test_a_caller_that_never_ends_its_headers_is_cut_off(server: Server) -> None:
    """Else a thousand of them, without a token, leave no connection for the store."""
    for beginning in (b"", b"POST ", b"POST /notifications HTTP/1.1\r\nHost: a\r\nX-Slow: "):
        with server.connect() as connection:
            connection.sendall(beginning)
            connection.settimeout(5)
            assert status(connection.recv(1000)) in (0, 400, 408)


def test_a_body_that_is_cut_off_is_not_recorded(server: Server) -> None:
    content = body(record("churn/cut.csv"))
    for _ in range(50):
        with server.connect() as connection:
            connection.sendall(post(TOKEN_LINE + length(len(content) + 1)) + content)
    assert server.call(body(record("churn/whole.csv"))).status_code == 204
    assert "churn/cut.csv" not in server.known()
    assert server.rows("SELECT * FROM unreadable") == []


# Strangers who take connections


def sieges() -> dict[str, bytes]:
    """What a caller without a token sends first; one byte at a time follows."""
    endless = length(HUGE)
    page = f"Host: {LOOPBACK}\r\nX-Dropflow: 1\r\n".encode()
    return {
        "nothing": b"",
        "a head": b"POST /notifications HTTP/1.1\r\nX-Slow: ",
        "a body with a wrong token": b"POST /notifications HTTP/1.1\r\nAuthorization: x\r\n"
        + endless
        + b"\r\n",
        "a body for who reads none": b"GET /healthz HTTP/1.1\r\n" + endless + b"\r\n",
        "a body that is waited for": b"POST /login HTTP/1.1\r\n" + page + length(1000) + b"\r\n",
        "a request": b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        "a question to the ledger": b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    }


class Siege:
    """Hundreds of connections that begin alike and never end, each made anew when it is closed."""

    CONNECTIONS = 400

    def __init__(self, server: Server, beginning: bytes) -> None:
        self._server = server
        self._beginning = beginning
        self._ended = threading.Event()
        self._stands = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Siege":
        self._thread.start()
        assert self._stands.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _run(self) -> None:
        held = [self._one() for _ in range(self.CONNECTIONS)]
        self._stands.set()
        # At a pace that leaves the listener time: it is about connections here.
        for number in cycle(range(self.CONNECTIONS)):
            held[number] = self._go_on(held[number])
            if self._ended.wait(0.05 if number % 20 == 0 else 0):
                break
        for connection in held:
            connection.close()

    def _one(self) -> socket.socket:
        connection = socket.socket()
        connection.settimeout(0.2)
        with suppress(OSError):
            connection.connect((LOOPBACK, self._server.port))
            connection.sendall(self._beginning)
        return connection

    def _go_on(self, connection: socket.socket) -> socket.socket:
        try:
            connection.send(b"x" if self._beginning else b"")
            connection.settimeout(0)
            with suppress(BlockingIOError):
                while connection.recv(65536):
                    pass
                connection.close()  # it was closed there
        except OSError:
            connection.close()
        return self._one() if connection.fileno() == -1 else connection


@pytest.mark.parametrize("first", sieges())
def test_strangers_leave_room_for_health_checks_and_the_store(server: Server, first: str) -> None:
    content = body(record("churn/kept.csv"))
    told = (
        b"POST /notifications HTTP/1.1\r\nHost: a\r\n" + TOKEN_LINE + length(len(content)) + b"\r\n" + content
    )
    with server.connect() as kept:
        kept.settimeout(2 * PATIENCE)
        kept.sendall(told)
        assert status(kept.recv(1000)) == 204
        with Siege(server, sieges()[first]):
            for number in range(10):
                assert server.request("GET", "/healthz", timeout=2 * PATIENCE).status_code == 200
                notification = body(record(f"churn/{number}.csv"))
                assert server.call(notification, timeout=2 * PATIENCE).status_code == 204
            kept.sendall(told)
            assert status(kept.recv(1000)) == 204, "who has shown the token keeps its connection"


@pytest.mark.parametrize("options", [{"listeners.http.LINGER": 1.0}])
@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        (b"GET /healthz", 200),
        (b"POST /healthz", 405),
        (b"GET /metrics", 200),
        (b"GET /nothing", 404),
        (b"HEAD /notifications", 204),
        (b"POST /notifications", 401),
        (b"GET /", 200),
        (b"GET /objects", 200),
        (b"PUT /upload", 403),
        (b"POST /replay", 403),
    ],
)
def test_an_answer_ends_the_connection_of_who_has_not_sent_all(
    server: Server, request_line: bytes, expected: int
) -> None:
    """The caller has time to read it; then whatever it still sends is heard no more."""
    with server.connect() as connection:
        connection.settimeout(10)
        connection.sendall(
            request_line + f" HTTP/1.1\r\nHost: {LOOPBACK}\r\n".encode() + length(HUGE) + b"\r\nx"
        )
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        assert status(answer) == expected
        connection.sendall(b"x" * 1000)
        assert connection.recv(1) == b"", "not reset: the answer could be lost with it"
        wait_until(lambda: is_cut_off(connection), 5, what="the end of the connection")


def is_cut_off(connection: socket.socket) -> bool:
    try:
        connection.send(b"x")
    except ConnectionError:
        return True
    return False


# Requests that are none


def floods() -> dict[str, bytes]:
    line = b"POST /notifications HTTP/1.1\r\nHost: dropflow\r\n"
    chunks = post(TOKEN_LINE + CHUNKED) + b"2\r\n{}\r\n"
    return {
        "one header": line + b"X-Flood: ",
        "one header's name": line + b"X-Flood",
        "the address": b"POST /notifications?",
        "a trailer": chunks + b"0\r\nX-Flood: ",
    }


@both_parsers
def test_a_flood_that_never_ends_is_cut_off(server: Server) -> None:
    unheard = {}
    for where, beginning in floods().items():
        sent, answer = server.attack(beginning, huge())
        assert status(answer) in (0, 400, 408, 413, 431)
        unheard[where] = sent < IN_BUFFERS
    assert unheard == dict.fromkeys(unheard, True)


@both_parsers
def test_a_flood_of_headers_is_cut_off(server: Server) -> None:
    flood = repeat(b"".join(b"X-Flood-%d: y\r\n" % number for number in range(4000)), 1000)
    sent, answer = server.attack(b"POST /notifications HTTP/1.1\r\nHost: dropflow\r\n", flood)
    assert sent < IN_BUFFERS
    assert status(answer) in (0, 400, 431)


@both_parsers
def test_requests_that_are_no_http_are_refused(server: Server) -> None:
    content = body(record("churn/forged.csv"))
    broken = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\r\n\r\n",
        b"POST\r\n\r\n",
        b"POST /notifications HTTP/9.9\r\n\r\n",
        b"POST /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        post(b"Bad Header: x\r\n"),
        post(b"X-Nul: a\0b\r\n"),
        post(TOKEN_LINE + b"Content-Length: -1\r\n"),
        post(TOKEN_LINE + b"Content-Length: many\r\n"),
        post(TOKEN_LINE + b"Content-Length: " + b"9" * 5000 + b"\r\n"),
        post(TOKEN_LINE + b"Content-Length: 1\r\nContent-Length: 2\r\n") + b"xx",
        post(TOKEN_LINE + CHUNKED) + b"zz\r\n" + content,
        post(TOKEN_LINE + CHUNKED) + b"-1\r\n" + content,
        post(TOKEN_LINE + CHUNKED) + b"f" * 100 + b"\r\n" + content,
    ]
    answers = {request: status(server.attack(request)[1]) for request in broken}
    assert [request for request, answer in answers.items() if not 400 <= answer < 500] == []
    assert "churn/forged.csv" not in server.known()


@both_parsers
def test_two_ways_to_tell_the_length_hide_no_second_request(server: Server) -> None:
    hidden = body(record("churn/hidden.csv"))
    inner = (
        b"POST /notifications HTTP/1.1\r\nHost: a\r\n" + TOKEN_LINE + length(len(hidden)) + b"\r\n" + hidden
    )
    content = b"0\r\n\r\n" + inner
    answer = server.post(TOKEN_LINE + length(len(content)) + CHUNKED, content)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status(answer) in (204, 400)
    assert "churn/hidden.csv" not in server.known()


@both_parsers
def test_pipelined_requests_are_answered_one_by_one_until_one_is_refused(server: Server) -> None:
    def one(key: str, token: bytes = TOKEN_LINE) -> bytes:
        content = body(record(key))
        return (
            b"POST /notifications HTTP/1.1\r\nHost: a\r\n" + token + length(len(content)) + b"\r\n" + content
        )

    good = [one(f"churn/{number}.csv") for number in range(100)]
    head, *contents = [*good, one("churn/refused.csv", b""), one("churn/behind.csv")]
    answers = re.findall(rb"HTTP/1\.1 (\d{3})", server.attack(head, [b"".join(contents)])[1])
    assert answers == [b"204"] * 100 + [b"401"]
    assert {f"churn/{number}.csv" for number in range(100)} <= server.known()
    assert not server.known() & {"churn/refused.csv", "churn/behind.csv"}


# Bodies whose content is wrong


def test_what_cannot_be_read_is_kept_and_accepted(server: Server) -> None:
    unreadable = [
        b"",
        b"no json",
        b"\xff\xfe\0",
        b'{"Records":[',
        b"[" * MIB,
        b'{"a":' * 200_000,
        b'{"Records":[' + b"[" * 900 + b"]" * 900 + b"]}",
        b'{"Records":7}',
        b'{"Records":{"0":{}}}',
        b'{"Records":"text"}',
        b'{"Records":[{"eventName":["s3:ObjectCreated:Put"]}]}',
        b'{"Records":' + b"9" * 100_000 + b"}",
        b'{"Records":[NaN,Infinity]}',
        b'{"event_type":"create","key":7}',
        b'{"event_type":"create","key":"/buckets/raw/a","message":[1]}',
        b'{"event_type":"create","key":"/buckets/raw/\\ud800","message":{"new_entry":{"name":"x"}}}',
        body(record("churn/a\0b.csv")),
        body(record("churn/a%00b.csv")),
        body(*[7, None, "text", [], {}] * 2000),
    ]
    answers = [server.call(content) for content in unreadable]
    assert [answer.status_code for answer in answers] == [204] * len(unreadable)
    assert server.rows("SELECT count(*) FROM unreadable") == [(len(unreadable),)]
    assert server.known() == set()


def poisoned() -> dict[str, bytes]:
    """Records whose fields no database takes, though JSON does."""
    fields: dict[str, dict[str, Any]] = {
        "a size of thirty digits": {"size": 1e30},
        "a size just too great": {"size": 2**63},
        "a size of thirty digits in a text": {"size": "9" * 30},
        "an etag with a lone surrogate": {"eTag": "\ud800"},
        "an etag with a NUL": {"eTag": "a\0b"},
        "a version with a lone surrogate": {"versionId": "\udfff"},
        "a key with a lone surrogate": {"key": "churn/\ud800.csv"},
        "a key with a NUL": {"key": "churn/\0.csv"},
        "a size that is a list": {"size": [1]},
        "a size below every number": {"size": -(10**40)},
    }
    records = {
        name: json.dumps(record(**{"key": "churn/poison.csv", **given})) for name, given in fields.items()
    }
    records["a size of infinity"] = json.dumps(record("churn/poison.csv")).replace(
        '"size": 3', '"size": 1e400'
    )
    return {name: text.encode() for name, text in records.items()}


def test_a_poisoned_record_hides_no_other_and_blocks_no_queue(server: Server) -> None:
    answers = {}
    for number, (name, poison) in enumerate(poisoned().items()):
        good = [json.dumps(record(f"churn/{number}-{place}.csv")).encode() for place in (1, 2)]
        content = b'{"Records":[' + b",".join([good[0], poison, good[1]]) + b"]}"
        answers[name] = server.call(content).status_code
    assert answers == dict.fromkeys(answers, 204)
    assert {f"churn/{n}-{place}.csv" for n in range(len(answers)) for place in (1, 2)} <= server.known()
    assert "churn/poison.csv" not in server.known()


def test_a_poisoned_seaweedfs_body_blocks_no_queue(server: Server) -> None:
    etag = {"Seaweed-X-Amz-ETag": "ZTVlYmQ0YzAyY2VmYmU3OTU1OTc3YzY3YWRhMjQyYjc="}
    for number, attributes in enumerate(
        [
            {"file_size": 1e30, "mtime": 1},
            {"file_size": 1, "mtime": 1e30},
            {"file_size": 1, "mtime": -1e17},
            {"file_size": "many", "mtime": None},
            {"file_size": [1], "mtime": {}},
        ]
    ):
        content = seaweed(f"/buckets/raw/churn/{number}.csv", attributes=attributes, extended=etag)
        assert server.call(content).status_code == 204
        assert f"churn/{number}.csv" in server.known(), "the key is good: the store knows the rest"


def test_keys_that_climb_out_of_folders_are_only_names(server: Server) -> None:
    """That no file appears is seen to after every test here."""
    keys = {
        "../outside.csv",
        "churn/../../../outside.csv",
        "/outside.csv",
        "churn/..\\..\\outside.csv",
        "churn/~/outside.csv",
        "churn/$(touch outside).csv",
        "churn/'; DROP TABLE objects; --.csv",
        "churn/\u202evsc.exe",
        "churn/" + "x/" * 10_000 + "deep.csv",
    }
    assert server.call(body(*(record(key) for key in keys))).status_code == 204
    assert server.call(seaweed("/buckets/raw/../../outside.csv")).status_code == 204
    assert keys | {"../../outside.csv"} <= server.known()


@pytest.mark.parametrize("options", [{"listeners.service.TICK": 0.5}])
def test_keys_with_line_ends_forge_neither_headers_nor_log_lines(server: Server) -> None:
    endings = ("\r\n", "\n", "\r", "\x85", "\u2028", "%0D%0A", "\x1b[2K\r", "\v\f\x1c")
    for number, end in enumerate(endings):
        content = body(record(f"elsewhere/{number}{end}FORGED: yes{end}{end}FORGED line"))
        answer = server.post(TOKEN_LINE + length(len(content)), content)
        assert status(answer) == 204
        assert b"FORGED" not in answer
    wait_until(
        lambda: server.log().count("FORGED: yes") == len(endings), what="the dispatcher's word of them"
    )
    told = [line for line in server.log().splitlines() if "FORGED" in line]
    assert [line for line in told if not re.match(r"\d{4}-\d\d-\d\d [\d:,]+ [A-Z]+ [a-z.]+: ", line)] == []
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", server.log())


def test_many_wrong_records_at_once_take_little_memory(server: Server) -> None:
    for entry in (b"0", b"{}"):
        records = b",".join(repeat(entry, (LONGEST_BODY - 100) // (len(entry) + 1)))
        # One more blank each: equal bodies would be kept once.
        contents = [b'{"Records":[' + records + b"]}" + b" " * number for number in range(AT_ONCE // 2)]
        answers = server.at_once(
            TOKEN_LINE + length(LONGEST_BODY), *([c.ljust(LONGEST_BODY)] for c in contents)
        )
        assert {status(answer) for answer in answers} == {204}


@pytest.mark.parametrize("options", [{"dropflow.ledger.ledger.MOST_UNREADABLE": 25}])
def test_unreadable_bodies_fill_neither_disk_nor_memory(server: Server) -> None:
    for turn in range(5):
        contents = [[f"{turn} {number} ".encode().ljust(LONGEST_BODY, b"x")] for number in range(AT_ONCE)]
        answers = server.at_once(TOKEN_LINE + length(LONGEST_BODY), *contents)
        assert {status(answer) for answer in answers} == {204}
    ((count, longest, wordiest),) = server.rows(
        "SELECT count(*), max(length(body)), max(length(reason)) FROM unreadable"
    )
    assert (count, longest) == (25, 64 * 1024)
    assert wordiest < 1000
    assert max(len(line) for line in server.log().splitlines()) < 2000
    newest = {
        bytes(start[0]).split()[0] for start in server.rows("SELECT substr(body, 1, 9) FROM unreadable")
    }
    assert newest <= {b"3", b"4"}, "the oldest make room"
