"""Objects in buckets, and the news that one was created."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from urllib.parse import quote

CREATED_EVENTS = ("CompleteMultipartUpload", "Copy", "Post", "Put")
"""The S3 events `s3:ObjectCreated:<name>` that mean new bytes.

Never `ObjectCreated:*`: that also fires for tags, retention and legal holds.
"""

CANARIES = "_canary/"
"""The folder of a dataset where the listener drops the objects by which it tests the whole path."""
Source = Literal["stream", "webhook", "sweep", "page"]


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object: same bucket, key and etag means the same bytes in the same place.

    `etag` is "" while only the key is known; `size` is in bytes; `modified` is the store's own time (UTC)
    of the last write, where it was told.
    """

    bucket: str
    key: str
    etag: str = ""
    size: int | None = None
    version_id: str | None = None
    modified: datetime | None = field(default=None, compare=False)

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def identity(self) -> str:
        """One string for bucket, key and etag."""
        return f"{self.url} {self.etag}"

    @property
    def name(self) -> str:
        """The last part of the key: what people call the file."""
        return self.key.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class ObjectCreated:
    """A hint that an object appeared or was overwritten. May come late, twice, or never."""

    ref: ObjectRef
    source: Source


def printable(text: str, limit: int = 120) -> str:
    """`text` on one line without control characters, shortened to `limit` characters.

    Keys and cell values are chosen by whoever uploads; terminals, mails and run names are not
    theirs to write control sequences into.
    """
    clean = "".join(c if c.isprintable() else quote(c, safe="", errors="replace") for c in text)
    return clean if len(clean) <= limit else f"{clean[: limit - 9]}…{clean[-8:]}"
