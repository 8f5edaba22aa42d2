"""GET, HEAD and PUT of objects, signed and sent by botocore, without the layers of a client above that.

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
from typing import IO, Any

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError, ParamValidationError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies, percent_encode

CONNECTIONS = 32
TIMEOUT = (5, 60)
"""Seconds to connect, and without a byte of the answer."""
LONG = 2**20
"""Bytes that are not sent before the store has agreed."""
REFUSED = {"403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
"""The credentials themselves; the answer to a HEAD has no more than its number."""
REFUSED_TRIES, REFUSED_WAIT = 3, 0.5
"""How often, and after how many seconds, keys from files are read again and tried."""
_CODE = re.compile(rb"<Code>([^<]{1,200})</Code>")


@dataclass(frozen=True)
class Transport:
    """Requests about single objects of one store. Threads may share it, processes may not."""

    endpoint: str
    region: str
    credentials: Callable[[], ReadOnlyCredentials]
    """Asked for each request, so that keys can be rotated."""
    rotates: bool = False
    """Whether a refused request is worth signing anew: its keys may just be being replaced."""
    ca_file: Path | None = None
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
        for left in range(REFUSED_TRIES - 1, -1, -1):
            answer = self._session.send(self._signed(method, bucket, key, headers, body).prepare())
            if answer.status_code < 300:
                break
            error = _error(method, answer)
            if not (left and self.rotates and error.response["Error"]["Code"] in REFUSED):
                raise error
            time.sleep(REFUSED_WAIT)
        return answer

    def _signed(
        self, method: str, bucket: str, key: str, headers: dict[str, str] | None, body: bytes | IO[bytes]
    ) -> AWSRequest:
        url = f"{self.endpoint.rstrip('/')}/{bucket}/{percent_encode(key, safe='/~')}"
        sent = {"User-Agent": "dropflow", **(headers or {})}
        if not isinstance(body, bytes):
            body.seek(0)
        if not isinstance(body, bytes) or len(body) > LONG:
            # A store that does not want it says so before it is sent.
            sent["Expect"] = "100-continue"
        request = AWSRequest(method, url, sent, body, stream_output=method == "GET")
        S3SigV4Auth(self.credentials(), "s3", self.region).add_auth(request)
        return request


def _error(method: str, answer: AWSResponse) -> ClientError:
    """As a client tells it: by the code in the body, or without one by the status."""
    found = _CODE.search(answer.content)
    status = answer.status_code
    response: Any = {
        "Error": {"Code": found[1].decode(errors="replace") if found else str(status)},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, method)
