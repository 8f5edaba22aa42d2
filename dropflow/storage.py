"""The object store: a small face over boto3 whose errors say whether trying again can help."""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, cached_property, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.credentials import CredentialProvider, Credentials, ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError
from botocore.response import StreamingBody
from pydantic import SecretStr

from dropflow.errors import (
    AccessError,
    AlreadyExistsError,
    ObjectMissingError,
    PermanentError,
    SettingsError,
    TransientError,
)
from dropflow.listing import Listing, parse_listing, whole_number
from dropflow.objects import ObjectRef, printable
from dropflow.retry import retry
from dropflow.settings import FileSecret, Settings
from dropflow.tls import unreachable
from dropflow.transport import (
    CONNECTIONS,
    REFUSED,
    REFUSED_TRIES,
    REFUSED_WAIT,
    TIMEOUT,
    Transport,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MISSING = {"404", "NoSuchKey", "NotFound", "NoSuchVersion"}
_CONFLICT = {"412", "PreconditionFailed"}
_VERSION, _METADATA = "x-amz-version-id", "x-amz-meta-"
PAGE = 1000
CHUNK = 256 * 1024
"""Bytes in memory of an object that is streamed."""
ABSENT = "*"
"""As `instead_of`: write only where nothing is."""
_TRANSIENT = {
    "ConditionalRequestConflict",
    "RequestTimeout",
    "SlowDown",
    "TooManyRequests",
    "InternalError",
    "ServiceUnavailable",
}
REFUSED_TO_DO = (
    "check DROPFLOW_S3_ACCESS_KEY and DROPFLOW_S3_SECRET_KEY, and what that key is permitted to do"
)
DENIED_TO_DO = "check what the access key is permitted to do"
NAMED_TO_DO = "check the key and bucket that it names"
REDIRECTED_TO_DO = "check DROPFLOW_S3_ENDPOINT and DROPFLOW_S3_REGION: the bucket is elsewhere"
UNTOLD_TO_DO = "copy it onto itself, or upload it again"
_ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "400"}
"""The answer to a HEAD has no more than its number."""
_OWNED = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Translate botocore's errors to ours, naming what was being done on one printable line."""
    what = printable(what, 300)
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        message = f"{what}: the store answered {status} {code}"
        if code in _MISSING:
            raise ObjectMissingError(f"{what}: no such object (deleted or renamed?)") from error
        if code in _CONFLICT:
            raise AlreadyExistsError(message) from error
        if code in _TRANSIENT or status >= 500 or status == 429:
            raise TransientError(message) from error
        if code in REFUSED or status in (401, 403):
            raise AccessError(f"{message}: {REFUSED_TO_DO if code in REFUSED else DENIED_TO_DO}") from error
        to_do = REDIRECTED_TO_DO if code in _ELSEWHERE or 300 <= status < 400 else NAMED_TO_DO
        raise PermanentError(f"{message}: {to_do}") from error
    except (ParamValidationError, NoCredentialsError) as error:
        raise PermanentError(f"{what}: {' '.join(str(error).split())}") from error
    except BotoCoreError as error:
        raise unreachable(what, error) from error


def _ref(bucket: str, key: str, answer: AWSResponse) -> ObjectRef:
    """The object that a GET or HEAD has found. Raises PermanentError where the answer does not tell which."""
    headers = answer.headers
    etag, modified, length = _etag(headers), _moment(headers.get("Last-Modified")), _length(answer)
    for name, told in (
        ("ETag", etag),
        ("Last-Modified", modified),
        # A proxy may take it away.
        ("Content-Length", length is not None or "Content-Length" not in headers),
    ):
        if not told:
            raise _untold(bucket, key, name, headers.get(name, ""))
    return ObjectRef(bucket, key, etag, length, headers.get(_VERSION), modified)


def _untold(bucket: str, key: str, name: str, value: str) -> PermanentError:
    told = f"an unreadable {name} of it ({value!r})" if value else f"no {name} of it"
    what = printable(f"s3://{bucket}/{key}", 300)
    return PermanentError(f"{what}: the store tells {printable(told)}: {UNTOLD_TO_DO}")


def _etag(headers: Mapping[str, str]) -> str:
    """Without its quotes; empty where there is none."""
    return headers.get("ETag", "").strip('"')


def _moment(date: str | None) -> datetime | None:
    """None where there is none that can be read."""
    try:
        moment = parsedate_to_datetime(date or "")
    except (ValueError, OverflowError):
        return None
    # Of "-0000" Python makes a time without a zone.
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _told_at(date: str | None) -> datetime:
    """The store's own time of an answer; ours where it does not tell."""
    return _moment(date) or datetime.now(UTC)


def _length(answer: AWSResponse) -> int | None:
    """None where there is none that can be read."""
    return whole_number(answer.headers.get("Content-Length", ""))


@dataclass(frozen=True, slots=True)
class Stat:
    """An object's head. `age` is in seconds by the store's own clock."""

    ref: ObjectRef
    metadata: dict[str, str]
    age: float


class Readable(Protocol):
    """What bytes are read from, once."""

    def read(self, size: int = -1, /) -> bytes: ...


class Opened:
    """An object of which only the head has been read. Its bytes can be read once, until it is closed."""

    def __init__(self, ref: ObjectRef, body: StreamingBody) -> None:
        self.ref = ref
        self._body = body
        self._is_read = False

    def read(self) -> bytes:
        """All bytes. Raises TransientError, also when they have been read before."""
        with self._once():
            content: bytes = self._body.read()
        return content

    def chunks(self) -> Iterator[bytes]:
        """CHUNK bytes at a time. Raises TransientError as `read` does."""
        with self._once():
            yield from self._body.iter_chunks(CHUNK)

    def close(self) -> None:
        self._body.close()

    @contextmanager
    def _once(self) -> Iterator[None]:
        if self._is_read:
            raise TransientError(f"get {self.ref.url}: it was read before")
        self._is_read = True
        with _errors(f"get {self.ref.url}"):
            yield


@dataclass(frozen=True)
class ObjectStore:
    """An S3-compatible store. Methods raise TransientError once retries are used up."""

    transport: Transport
    """For what each object of a run needs, and for listings."""
    _connect: Callable[[], "S3Client"] = field(repr=False)

    @cached_property
    def client(self) -> "S3Client":
        """For all else. Made when it is needed first, as that takes as long as a dozen requests."""
        return self._connect()

    def stat(self, bucket: str, key: str) -> ObjectRef:
        """The object as it is now. Raises ObjectMissingError, or PermanentError where it is not told which.

        So do all that read or write one.
        """
        return self.head(bucket, key).ref

    def exists(self, bucket: str, key: str) -> bool:
        try:
            self.head(bucket, key)
        except ObjectMissingError:
            return False
        return True

    def is_current(self, ref: ObjectRef) -> bool:
        """Whether the key still holds these bytes."""
        try:
            return self.stat(ref.bucket, ref.key).etag == ref.etag
        except ObjectMissingError:
            return False

    @retry
    def head(self, bucket: str, key: str) -> Stat:
        """The object as it is now, with its metadata. Raises ObjectMissingError."""
        with _errors(f"stat s3://{bucket}/{key}"):
            answer = self.transport.send("HEAD", bucket, key)
        ref = _ref(bucket, key, answer)
        named = ((name.lower(), value) for name, value in answer.headers.items())
        metadata = {
            name.removeprefix(_METADATA): value for name, value in named if name.startswith(_METADATA)
        }
        assert ref.modified
        age = _told_at(answer.headers.get("Date")) - ref.modified
        return Stat(ref, metadata, age.total_seconds())

    @retry
    def clock(self, bucket: str) -> datetime:
        """The store's own time, in whole seconds. Raises ObjectMissingError when there is no such bucket."""
        with _errors(f"look for bucket {bucket}"):
            answer = self.client.head_bucket(Bucket=bucket)
        return _told_at(answer["ResponseMetadata"]["HTTPHeaders"].get("date"))

    @retry
    def get(self, bucket: str, key: str) -> tuple[ObjectRef, bytes]:
        """The object as it is now, with its bytes. Raises ObjectMissingError."""
        with _errors(f"get s3://{bucket}/{key}"):
            opened = _opened_by(bucket, key, self.transport.send("GET", bucket, key))
            body = opened.read()
        return replace(opened.ref, size=len(body)), body

    @retry
    def open(self, bucket: str, key: str) -> "Opened":
        """The object as it is now, its bytes still to be read: to be closed. Raises ObjectMissingError."""
        with _errors(f"get s3://{bucket}/{key}"):
            return _opened_by(bucket, key, self.transport.send("GET", bucket, key))

    @retry
    def put(
        self,
        bucket: str,
        key: str,
        body: bytes | Path,
        content_type: str,
        *,
        metadata: dict[str, str] | None = None,
        instead_of: str | None = None,
    ) -> ObjectRef:
        """Write an object whole: readers see all of it or none. A file is sent as it is read.

        `instead_of` is the etag it may replace, or ABSENT; raises AlreadyExistsError when something else
        is there. A retry after a lost answer can meet its own first attempt: the caller compares.
        """
        headers = {"Content-Type": content_type}
        headers |= {f"{_METADATA}{name}": value for name, value in (metadata or {}).items()}
        if instead_of is not None:
            headers |= {"If-None-Match": "*"} if instead_of == ABSENT else {"If-Match": f'"{instead_of}"'}
        with _errors(f"put s3://{bucket}/{key}"), _opened(body) as content:
            try:
                done = self.transport.send("PUT", bucket, key, headers, content).headers
            except ClientError as error:
                # What was to be replaced has vanished: a lost race as well (S3, MinIO; SeaweedFS: 412).
                if "If-Match" in headers and error.response.get("Error", {}).get("Code") in _MISSING:
                    raise AlreadyExistsError(f"put s3://{bucket}/{key}: it was deleted meanwhile") from error
                raise
        etag = _etag(done)
        if not etag:
            raise _untold(bucket, key, "ETag", done.get("ETag", ""))
        size = body.stat().st_size if isinstance(body, Path) else len(body)
        return ObjectRef(bucket, key, etag, size, done.get(_VERSION))

    @retry
    def delete(self, bucket: str, key: str) -> None:
        """Delete the object; one that is not there is no error."""
        with _errors(f"delete s3://{bucket}/{key}"):
            self.client.delete_object(Bucket=bucket, Key=key)

    @retry
    def upload(self, path: Path, bucket: str, key: str, progress: Callable[[int], None]) -> ObjectRef:
        """Upload a file in parts; `progress` is called with bytes sent since its last call."""
        # Not upload_file, which hides the store's answer in an error of its own.
        with path.open("rb") as file, _errors(f"upload {path} to s3://{bucket}/{key}"):
            self.client.upload_fileobj(file, bucket, key, Callback=progress)
        return self.stat(bucket, key)

    def upload_stream(self, body: Readable, bucket: str, key: str) -> ObjectRef:
        """Upload what can be read once only, in parts: an error in between leaves nothing behind."""
        with _errors(f"upload s3://{bucket}/{key}"):
            # Without threads of its own, which would hold several parts in memory.
            one_by_one = TransferConfig(use_threads=False)
            self.client.upload_fileobj(cast("IO[bytes]", body), bucket, key, Config=one_by_one)
        return self.stat(bucket, key)

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectRef]:
        """Objects below `prefix`, one page of up to 1,000 in memory at a time."""
        token: str | None = None
        while True:
            page = self._page(bucket, prefix, token)
            yield from page.refs
            token = page.token
            if not token:
                return

    @retry
    def _page(self, bucket: str, prefix: str, token: str | None) -> Listing:
        what = f"list s3://{bucket}/{prefix}"
        with _errors(what):
            content = _body(self.transport.list(bucket, prefix, PAGE, token)).read()
        try:
            return parse_listing(bucket, content, token)
        except ValueError as error:
            why = f"the store's answer is no listing: {error}"
            raise TransientError(f"{printable(what, 300)}: {printable(why)}") from error

    @retry
    def ensure_bucket(self, bucket: str) -> None:
        """Create the bucket unless it is there."""
        with _errors(f"create bucket {bucket}"):
            try:
                self.client.head_bucket(Bucket=bucket)
                return
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in {"404", "NoSuchBucket"}:
                    raise
            try:
                self.client.create_bucket(Bucket=bucket)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in _OWNED:
                    raise


def _opened_by(bucket: str, key: str, answer: AWSResponse) -> Opened:
    """The object that a GET has found. Raises PermanentError as `_ref` does."""
    body = _body(answer)
    try:
        return Opened(_ref(bucket, key, answer), body)
    except PermanentError:
        body.close()
        raise


def _body(answer: AWSResponse) -> StreamingBody:
    """What is still to be read of it. Reading raises BotoCoreError when it ends early."""
    length: Any = _length(answer)  # None is fine, which the stubs do not know
    return StreamingBody(answer.raw, length)


@contextmanager
def _opened(body: bytes | Path) -> Iterator[bytes | IO[bytes]]:
    if isinstance(body, Path):
        with body.open("rb") as file:
            yield file
    else:
        yield body


def pages(store: ObjectStore, bucket: str, prefixes: Iterable[str]) -> Iterator[list[ObjectRef]]:
    """All below the prefixes, in lists of up to PAGE objects: one in memory at a time."""
    refs = itertools.chain.from_iterable(store.list(bucket, prefix) for prefix in prefixes)
    while page := list(itertools.islice(refs, PAGE)):
        yield page


_sessions = threading.Lock()
"""One thread at a time makes a client: a session is not thread-safe, its clients are."""


def connect(settings: Settings) -> ObjectStore:
    """Open the store the settings name. Raises SettingsError."""
    if not (settings.s3_endpoint and settings.s3_access_key and settings.s3_secret_key):
        raise SettingsError(
            "no object store: start one with `dropflow up`, or set DROPFLOW_S3_ENDPOINT, "
            "DROPFLOW_S3_ACCESS_KEY and DROPFLOW_S3_SECRET_KEY"
        )
    access, secret = settings.s3_access_key, settings.s3_secret_key
    transport = Transport(
        settings.s3_endpoint,
        settings.s3_region,
        partial(_as_they_are, access, secret),
        rotates=_in_files(access, secret),
        ca_file=settings.ca_file,
    )
    return ObjectStore(transport, partial(_client, settings, access, secret))


def _client(settings: Settings, access: SecretStr, secret: SecretStr) -> "S3Client":
    with _sessions:
        session, keys = _session(access, secret)
        client = session.client(
            "s3",
            endpoint_url=settings.s3_endpoint,
            region_name=settings.s3_region,
            verify=str(settings.ca_file) if settings.ca_file else None,
            **keys,
            config=Config(
                s3={"addressing_style": "path"},
                # Retrying is dropflow.retry's business alone.
                retries={"total_max_attempts": 1},
                # Newer checksums are trailers that many S3-compatible stores do not read.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                connect_timeout=TIMEOUT[0],
                read_timeout=TIMEOUT[1],
                max_pool_connections=CONNECTIONS,
                # Else botocore makes up one of twenty parts, a request.
                user_agent="dropflow",
            ),
        )
    if not keys:
        client.meta.events.register("needs-retry.s3", cast("Callable[..., None]", _read_again))
    return client


@cache
def shared_session() -> boto3.Session:
    """Keeps the models that clients are made of, which take 0.3 s to read."""
    return boto3.Session(botocore_session=_core())


@cache
def _core() -> botocore.session.Session:
    return botocore.session.Session()


def _as_they_are(access: SecretStr, secret: SecretStr) -> ReadOnlyCredentials:
    """The keys, read from their files where they are in some."""
    return ReadOnlyCredentials(access.get_secret_value(), secret.get_secret_value(), None)


def _in_files(access: SecretStr, secret: SecretStr) -> bool:
    return isinstance(access, FileSecret) or isinstance(secret, FileSecret)


def _session(access: SecretStr, secret: SecretStr) -> tuple[boto3.Session, dict[str, Any]]:
    """What makes the client, and the keys to give it: none where each request reads them from files."""
    if not _in_files(access, secret):
        keys = {"aws_access_key_id": access.get_secret_value()}
        return shared_session(), {**keys, "aws_secret_access_key": secret.get_secret_value()}
    core = botocore.session.Session()
    core.register_component("data_loader", _core().get_component("data_loader"))
    core.get_component("credential_provider").insert_before("env", _FromFiles(access, secret))
    return boto3.Session(botocore_session=core), {}


class _FromFiles(CredentialProvider):
    METHOD = "dropflow-files"

    def __init__(self, access: SecretStr, secret: SecretStr) -> None:
        super().__init__()
        self._keys = (access, secret)

    def load(self) -> "_Current":
        return _Current(*self._keys)


class _Current(Credentials):
    """The keys as their files have them now: asked for at every request, so that they can be rotated."""

    def __init__(self, access: SecretStr, secret: SecretStr) -> None:
        super().__init__(access.get_secret_value(), secret.get_secret_value(), method=_FromFiles.METHOD)
        self._keys = (access, secret)

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return _as_they_are(*self._keys)


def _read_again(response: Any, attempts: int, **_: Any) -> float | None:
    """Seconds until a refused request is signed anew: its files may just be being replaced."""
    code = response[1].get("Error", {}).get("Code") if response else None
    return REFUSED_WAIT if code in REFUSED and attempts < REFUSED_TRIES else None
