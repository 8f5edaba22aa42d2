"""What is sent about an object is what a client of boto3's would send."""

import io
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError, ParamValidationError
from botocore.httpsession import URLLib3Session
from hypothesis import example, given, settings
from hypothesis import strategies as st
from urllib3.exceptions import ProtocolError

from dropflow.errors import AlreadyExistsError
from dropflow.settings import Settings
from dropflow.storage import ABSENT, ObjectStore, connect
from dropflow.transport import LONG, REFUSED_TRIES, Transport

NOBODY = Settings.model_validate(
    {"s3_endpoint": "http://127.0.0.1:9", "s3_access_key": "key", "s3_secret_key": "hush"}
)
OF_ITS_OWN = {"user-agent", "amz-sdk-invocation-id", "amz-sdk-request", "expect", "x-amz-user-agent"}
"""Headers of a client that are about itself."""


@pytest.fixture
def sent() -> Iterator[list[AWSPreparedRequest]]:
    """What would have gone to the store, which answers all with success."""
    requests: list[AWSPreparedRequest] = []

    def send(_: URLLib3Session, request: AWSPreparedRequest) -> AWSResponse:
        requests.append(request)
        headers = {"ETag": '"e"', "Content-Length": "0", "Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT"}
        return AWSResponse(request.url, 200, headers, _Raw())

    with patch.object(URLLib3Session, "send", send):
        yield requests


def told(request: AWSPreparedRequest) -> tuple[Any, ...]:
    """What the store goes by, but for the second in which it was signed."""
    headers = {name.lower(): _text(value) for name, value in request.headers.items()}
    signed = re.sub(r"/\d{8}/", "/day/", headers.pop("authorization").rpartition(", Signature=")[0])
    mine = {name: value for name, value in headers.items() if name not in {*OF_ITS_OWN, "x-amz-date"}}
    return request.method, request.url, mine, _body(request.body), signed


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _body(body: Any) -> bytes:
    return b"" if body is None else body if isinstance(body, bytes) else body.read()


ANY_KEY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
STORE = connect(NOBODY)


@given(ANY_KEY, st.binary(max_size=20))
@example("churn/../../etc/passwd", b"x")
@example("a//b/./c;d?e=f&g#h%2F+ü~\n", b"")
@settings(deadline=None, suppress_health_check=["function_scoped_fixture"])  # type: ignore[list-item]
def test_any_key_is_sent_as_a_client_sends_it(sent: list[AWSPreparedRequest], key: str, body: bytes) -> None:
    sent.clear()
    client, at = STORE.client, {"Bucket": "raw", "Key": key}
    STORE.get("raw", key)
    client.get_object(**at)  # type: ignore[arg-type]
    STORE.head("raw", key)
    client.head_object(**at)  # type: ignore[arg-type]
    STORE.put("raw", key, body, "text/csv", metadata={"fingerprint": "f1"}, instead_of=ABSENT)
    more: Any = {"ContentType": "text/csv", "Metadata": {"fingerprint": "f1"}, "IfNoneMatch": "*"}
    client.put_object(**at, Body=body, **more)
    ours, theirs = sent[::2], sent[1::2]
    assert [told(one) for one in ours] == [told(one) for one in theirs]


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.none() | st.text("aZ/+=", min_size=1)
)
@example("churn/ü a&b=c?d+e%20/", "a+/=")
@settings(deadline=None, suppress_health_check=["function_scoped_fixture"])  # type: ignore[list-item]
def test_any_prefix_is_listed_as_a_client_lists_it(
    sent: list[AWSPreparedRequest], prefix: str, token: str | None
) -> None:
    sent.clear()
    STORE.transport.list("raw", prefix, 1000, token)
    more = {"ContinuationToken": token} if token else {}
    STORE.client.list_objects_v2(Bucket="raw", Prefix=prefix, MaxKeys=1000, **more)  # type: ignore[arg-type]
    ours, theirs = (told(one) for one in sent)
    own, clients = (urlsplit(str(one[1])) for one in (ours, theirs))
    assert sorted(own.query.split("&")) == sorted(clients.query.split("&"))
    assert own._replace(query="") == clients._replace(query="")
    assert ours[2:] == theirs[2:]


def test_a_file_is_sent_as_a_client_sends_it(sent: list[AWSPreparedRequest], tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    path.write_bytes(b"PAR1" * 1000)
    bodies = []

    def send(_: URLLib3Session, request: AWSPreparedRequest) -> AWSResponse:
        bodies.append(told(request))
        return AWSResponse(request.url, 200, {"ETag": '"e"'}, _Raw())

    with patch.object(URLLib3Session, "send", send), path.open("rb") as file:
        STORE.put("raw", "k", path, "text/csv", instead_of="e0")
        more: Any = {"ContentType": "text/csv", "IfMatch": '"e0"'}
        STORE.client.put_object(Bucket="raw", Key="k", Body=file, **more)
    assert bodies[0] == bodies[1]
    assert bodies[0][3] == path.read_bytes()
    assert not sent


@contextmanager
def store_that_answers(answer: bytes) -> Iterator[tuple[ObjectStore, list[bytes]]]:
    """One that answers once it has the headers, and what it was sent."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    while b"\r\n\r\n" not in b"".join(got):
                        got.append(connection.recv(2**16))
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(5)
                    while more := connection.recv(2**16):
                        got.append(more)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield connect(NOBODY.model_copy(update={"s3_endpoint": address})), got
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


TAKEN = b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("as_file", [True, False])
def test_a_long_body_is_not_sent_to_a_store_that_refuses_it(tmp_path: Path, *, as_file: bool) -> None:
    body: bytes | Path = bytes(LONG + 1)
    if as_file:
        (tmp_path / "out.parquet").write_bytes(bytes(LONG + 1))
        body = tmp_path / "out.parquet"
    with store_that_answers(TAKEN) as (store, got), pytest.raises(AlreadyExistsError):
        store.put("raw", "k", body, "text/csv", instead_of=ABSENT)
    assert b"".join(got).endswith(b"\r\n\r\n"), "nothing came after the headers"


def test_a_put_that_fails_after_its_answer_has_begun_is_tried_again(sent: list[AWSPreparedRequest]) -> None:
    late = AWSResponse("", 200, {}, _Raw(b"<Error><Code>InternalError</Code></Error>"))
    good = AWSResponse("", 200, {"ETag": '"e"'}, _Raw())
    answers = [late, good]
    with patch.object(URLLib3Session, "send", lambda *_: answers.pop(0)):
        assert STORE.put("raw", "k", b"x", "text/csv").etag == "e"
    assert not answers
    assert not sent


def test_an_error_that_breaks_off_is_told_by_its_status() -> None:
    answer = AWSResponse("", 503, {}, _Broken())
    with patch.object(URLLib3Session, "send", lambda *_: answer), pytest.raises(ClientError) as raised:
        STORE.transport.send("GET", "raw", "k")
    assert raised.value.response["Error"]["Code"] == "503"


class _Broken:
    def stream(self) -> Iterator[bytes]:
        raise ProtocolError("connection lost")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-amz-bucket-region": "eu-west-1"}, b""),
        ({}, b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"),
    ],
)
def test_a_bucket_of_another_region_is_asked_again_and_its_region_remembered(
    headers: dict[str, str], body: bytes
) -> None:
    scopes: list[str] = []

    def send(_: URLLib3Session, request: AWSPreparedRequest) -> AWSResponse:
        scopes.append(_text(request.headers["Authorization"]).split("/")[2])
        if scopes[-1] != "eu-west-1":
            return AWSResponse("", 400, headers, _Raw(body))
        return AWSResponse("", 200, {"ETag": '"e"'}, _Raw())

    store = connect(NOBODY)
    with patch.object(URLLib3Session, "send", send):
        for _ in range(2):
            store.put("raw", "k", b"x", "text/csv")
    assert scopes == ["us-east-1", "eu-west-1", "eu-west-1"]


def test_an_empty_key_is_not_taken_for_the_bucket(sent: list[AWSPreparedRequest]) -> None:
    with pytest.raises(ParamValidationError, match="key cannot be empty"):
        STORE.transport.send("GET", "raw", "")
    assert not sent


def keys() -> ReadOnlyCredentials:
    return ReadOnlyCredentials("key", "hush", None)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (404, b"<Error><Code>NoSuchKey</Code><Message>m</Message></Error>", "NoSuchKey"),
        (503, b"busy, says a proxy", "503"),
        (301, b"", "301"),
    ],
)
def test_an_error_tells_code_and_status(status: int, body: bytes, code: str) -> None:
    transport = Transport("http://127.0.0.1:9", "us-east-1", keys)
    answer = AWSResponse("", status, {}, _Raw(body))
    with patch.object(URLLib3Session, "send", lambda *_: answer), pytest.raises(ClientError) as raised:
        transport.send("GET", "raw", "k")
    assert raised.value.response["Error"]["Code"] == code
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


class _Raw(io.BytesIO):
    def stream(self) -> Iterator[bytes]:
        yield self.read()


@pytest.mark.parametrize(("rotates", "tries"), [(True, REFUSED_TRIES), (False, 1)])
def test_keys_that_are_being_replaced_are_read_again(
    monkeypatch: pytest.MonkeyPatch, *, rotates: bool, tries: int
) -> None:
    monkeypatch.setattr("dropflow.transport.REFUSED_WAIT", 0)
    asked: list[bytes] = []

    def refused(_: URLLib3Session, request: AWSPreparedRequest) -> AWSResponse:
        asked.append(_body(request.body))
        return AWSResponse("", 403, {}, _Raw(b"<Code>InvalidAccessKeyId</Code>"))

    transport = Transport("http://127.0.0.1:9", "us-east-1", keys, rotates=rotates)
    with patch.object(URLLib3Session, "send", refused), pytest.raises(ClientError):
        transport.send("PUT", "raw", "k", {}, io.BytesIO(b"whole each time"))
    assert asked == [b"whole each time"] * tries
