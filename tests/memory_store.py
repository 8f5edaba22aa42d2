"""An object store in memory with the same face as `ObjectStore`: for tests that make millions of moves."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5
from io import BytesIO
from pathlib import Path

from botocore.response import StreamingBody

from dropflow.errors import AlreadyExistsError, ObjectMissingError
from dropflow.objects import ObjectRef
from dropflow.storage import ABSENT, Opened, Stat


@dataclass
class Stored:
    body: bytes
    ref: ObjectRef
    metadata: dict[str, str]


@dataclass
class MemoryStore:
    """Strongly consistent, with conditional writes, as SeaweedFS, MinIO and S3 are."""

    buckets: dict[str, dict[str, Stored]] = field(default_factory=lambda: {"raw": {}, "processed": {}})

    def head(self, bucket: str, key: str) -> Stat:
        stored = self._stored(bucket, key)
        assert stored.ref.modified
        age = (datetime.now(UTC) - stored.ref.modified).total_seconds()
        return Stat(stored.ref, stored.metadata, age)

    def stat(self, bucket: str, key: str) -> ObjectRef:
        return self._stored(bucket, key).ref

    def exists(self, bucket: str, key: str) -> bool:
        return key in self.buckets[bucket]

    def is_current(self, ref: ObjectRef) -> bool:
        there = self.buckets[ref.bucket].get(ref.key)
        return there is not None and there.ref.etag == ref.etag

    def get(self, bucket: str, key: str) -> tuple[ObjectRef, bytes]:
        stored = self._stored(bucket, key)
        return stored.ref, stored.body

    def open(self, bucket: str, key: str) -> Opened:
        stored = self._stored(bucket, key)
        return Opened(stored.ref, StreamingBody(BytesIO(stored.body), len(stored.body)))

    def put(
        self,
        bucket: str,
        key: str,
        body: bytes | Path,
        _content_type: str,
        *,
        metadata: dict[str, str] | None = None,
        instead_of: str | None = None,
    ) -> ObjectRef:
        there = self.buckets[bucket].get(key)
        if (instead_of == ABSENT and there) or instead_of not in (None, ABSENT, there and there.ref.etag):
            raise AlreadyExistsError(f"put s3://{bucket}/{key}")
        body = body.read_bytes() if isinstance(body, Path) else body
        etag = md5(body, usedforsecurity=False).hexdigest()
        ref = ObjectRef(bucket, key, etag, len(body), modified=datetime.now(UTC))
        self.buckets[bucket][key] = Stored(body, ref, metadata or {})
        return ref

    def delete(self, bucket: str, key: str) -> None:
        self.buckets[bucket].pop(key, None)

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectRef]:
        for key in sorted(self.buckets[bucket]):
            if key.startswith(prefix):
                yield self.buckets[bucket][key].ref

    def _stored(self, bucket: str, key: str) -> Stored:
        try:
            return self.buckets[bucket][key]
        except KeyError:
            raise ObjectMissingError(f"s3://{bucket}/{key}: no such object") from None
