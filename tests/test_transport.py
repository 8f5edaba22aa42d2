"""What is sent about an object is what a client of boto3's would send."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError, ParamValidationError
from botocore.httpsession import URLLib3Session
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dropflow.settings import Settings
from dropflow.storage import ABSENT, connect
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
    signed = headers.pop("authorization").rpartition(", Signature=")[0]
    mine = {name: value for name, value in headers.items() if name not in {*OF_ITS_OWN, "x-amz-date"}}
    return request.method, request.url, mine, _body(request.body), "x-amz-content-sha256" in signed


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


def test_a_file_is_sent_as_a_client_sends_it(sent: list[AWSPreparedRequest], tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    path.write_bytes(b"PAR1" * 1000)
    bodies = []

    def send(_: URLLib3Session, request: AWSPreparedRequest) -> AWSResponse:
        assert _text(request.headers["Expect"]) == "100-continue"
        bodies.append(told(request))
        return AWSResponse(request.url, 200, {"ETag": '"e"'}, _Raw())

    with patch.object(URLLib3Session, "send", send), path.open("rb") as file:
        STORE.put("raw", "k", path, "text/csv", instead_of="e0")
        more: Any = {"ContentType": "text/csv", "IfMatch": '"e0"'}
        STORE.client.put_object(Bucket="raw", Key="k", Body=file, **more)
    assert bodies[0] == bodies[1]
    assert bodies[0][3] == path.read_bytes()
    assert not sent


@pytest.mark.parametrize(("length", "asks"), [(LONG, False), (LONG + 1, True)])
def test_long_bytes_are_not_sent_unasked(sent: list[AWSPreparedRequest], length: int, *, asks: bool) -> None:
    STORE.put("raw", "k", bytes(length), "text/csv")
    assert ("Expect" in sent[0].headers) is asks


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
