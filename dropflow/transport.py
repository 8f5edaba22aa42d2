"""GET, HEAD, PUT and listing of objects, signed and sent by botocore, without a client's layers above that.

A client takes 1.2 ms of CPU for a GET, three times as long as this: it resolves endpoints, calls hooks and
parses by models. Errors are those of a client: ClientError, BotoCoreError.
"""

import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError, ParamValidationError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies, percent_encode, percent_encode_sequence
from urllib3.exceptions import HTTPError

CONNECTIONS = 32
TIMEOUT = (5, 60)
"""Seconds to connect, and without a byte of the answer."""
LONG = 2**18
"""Bytes that are not sent before the store has agreed: of a body it refuses, no more may be read."""
REFUSED = {"403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
"""The credentials themselves; the answer to a HEAD has no more than its number."""
REFUSED_TRIES, REFUSED_WAIT = 3, 0.5
"""How often, and after how many seconds, keys from files are read again and tried."""
_CODE = re.compile(rb"<Code>([^<]{1,200})</Code>")
_REGION = re.compile(rb"<Region>([^<]{1,200})</Region>")


@dataclass(frozen=True)
class Transport:
    """Requests about the objects of one store. Threads may share it, processes may not."""

    endpoint: str
    region: str
    credentials: Callable[[], ReadOnlyCredentials]
    """Asked for each request, so that keys can be rotated."""
    rotates: bool = False
    """Whether a refused request is worth signing anew: its keys may just be being replaced."""
    ca_file: Path | None = None
    _regions: dict[str, str] = field(init=False, repr=False, default_factory=dict)
    """Of buckets that are in another one, as their store has told."""
    _session: URLLib3Session = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # As a client of boto3's does. The type stubs know less.
        verify: Any = self.ca_file or os.getenv("AWS_CA_BUNDLE") or os.getenv("REQUESTS_CA_BUNDLE") or True
        timeout: Any = TIMEOUT
        # Else the body of a PUT waits 40 ms for its headers to be acknowledged.
        at_once: Any = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        session = URLLib3Session(
            verify,
            get_environ_proxies(self.endpoint),
            timeout,
            max_pool_connections=CONNECTIONS,
            socket_options=at_once,
        )
        object.__setattr__(self, "_session", session)

    def send(
        self,
        method: str,
        bucket: str,
        key: str,
        headers: dict[str, str] | None = None,
        body: bytes | IO[bytes] = b"",
    ) -> AWSResponse:
        """The answer, to GET with its body still to be read. Raises ClientError when it is no success."""
        if not key:
            # Its address would be the bucket's.
            raise ParamValidationError(report="an object's key cannot be empty")
        path = f"{bucket}/{percent_encode(key, safe='/~')}"
        return self._answer(method, bucket, path, headers or {}, body)

    def list(self, bucket: str, prefix: str, most: int, token: str | None) -> AWSResponse:
        """The answer to ListObjectsV2, to be read: up to `most` objects, from where the page before ended.

        Raises ClientError as `send` does.
        """
        query = {"list-type": "2", "prefix": prefix, "encoding-type": "url", "max-keys": str(most)}
        if token:
            query["continuation-token"] = token
        return self._answer("GET", bucket, f"{bucket}?{percent_encode_sequence(query)}", {}, b"")

    def _answer(
        self, method: str, bucket: str, path: str, headers: dict[str, str], body: bytes | IO[bytes]
    ) -> AWSResponse:
        for left in range(REFUSED_TRIES - 1, -1, -1):
            answer = self._session.send(self._prepared(method, bucket, path, headers, body))
            if _is_success(method, answer):
                break
            error, region = _error(method, answer)
            if left and region and region != self._regions.get(bucket, self.region):
                self._regions[bucket] = region
            elif left and self.rotates and error.response["Error"]["Code"] in REFUSED:
                time.sleep(REFUSED_WAIT)
            else:
                raise error
        return answer

    def _prepared(
        self, method: str, bucket: str, path: str, headers: dict[str, str], body: bytes | IO[bytes]
    ) -> AWSPreparedRequest:
        url = f"{self.endpoint.rstrip('/')}/{path}"
        if not isinstance(body, bytes):
            body.seek(0)
        sent = {"User-Agent": "dropflow", **headers}
        request = AWSRequest(method, url, sent, body, stream_output=method == "GET")
        region = self._regions.get(bucket, self.region)
        S3SigV4Auth(self.credentials(), "s3", region).add_auth(request)
        prepared = request.prepare()
        if not isinstance(body, bytes) or len(body) > LONG:
            # As bytes: botocore waits for the answer to no other.
            prepared.headers["Expect"] = cast("str", b"100-continue")
        return prepared


def _is_success(method: str, answer: AWSResponse) -> bool:
    """A PUT may be answered 200 before it fails: then there is no ETag."""
    return answer.status_code < 300 and (method != "PUT" or "ETag" in answer.headers)


def _error(method: str, answer: AWSResponse) -> tuple[ClientError, str]:
    """As a client tells it, by the code in the body or the status; and the bucket's region, if told."""
    try:
        content = answer.content
    except HTTPError:
        content = b""  # it broke off
    status = answer.status_code if answer.status_code >= 300 else 500
    code, region = (_found(pattern, content) for pattern in (_CODE, _REGION))
    response: Any = {
        "Error": {"Code": code or str(status)},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, method), answer.headers.get("x-amz-bucket-region") or region


def _found(pattern: re.Pattern[bytes], content: bytes) -> str:
    found = pattern.search(content)
    return found[1].decode(errors="replace") if found else ""
