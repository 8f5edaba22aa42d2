"""Notification payloads to ObjectCreated. Pure; every supported store's form is read here.

Forms: MinIO's listen stream (keys raw), MinIO's and S3's webhook targets (keys query-escaped),
SeaweedFS's filer webhook (keys raw).
"""

import json
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

from dropflow.errors import NotificationFormatError
from dropflow.objects import CREATED_EVENTS, ObjectCreated, ObjectRef, Source

_SEAWEED_ROOT = "/buckets/"
_SEAWEED_UPLOADS = ".uploads/"
"""SeaweedFS's own folder at a bucket's root, for the parts of unfinished uploads."""
_ETAG = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")
_SEAWEED_VERSION = re.compile(r"(.+)\.versions/v_[0-9a-f]{32}", re.DOTALL)
"""Where SeaweedFS keeps an object of a versioned bucket. Others may name a folder so, too."""


MOST_PROBLEMS = 5
"""Told of one payload: a wrong one could have half a million."""
_LARGEST = 2**63 - 1


@dataclass
class Parsed:
    """What one payload said: objects created, and the records that could not be read."""

    created: list[ObjectCreated] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def parse_stream_line(line: bytes) -> Parsed:
    """One line of MinIO's listen stream; blanks and `{"Records":null}` are keep-alives.

    Raises NotificationFormatError when the line is not such an object at all.
    """
    if not line.strip():
        return Parsed()
    body = _object(line)
    if "Records" not in body:
        raise NotificationFormatError("a line of the stream has no Records")
    return _records(body["Records"], "stream", decode=lambda key: key)


def parse_webhook_body(body: bytes) -> Parsed:
    """A webhook's body. Raises NotificationFormatError when it is of no known form."""
    content = _object(body)
    if "Records" in content:
        return _records(content["Records"], "webhook", decode=unquote_plus)
    if "event_type" in content and "key" in content:
        return _seaweed(content)
    raise NotificationFormatError("neither Records (MinIO, S3) nor event_type and key (SeaweedFS)")


def _object(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotificationFormatError(f"no JSON: {error}") from error
    if not isinstance(content, dict):
        raise NotificationFormatError(f"expected a JSON object, got {type(content).__name__}")
    return content


def _records(records: Any, source: Source, decode: Callable[[str], str]) -> Parsed:
    if records is None:
        return Parsed()
    if not isinstance(records, list):
        raise NotificationFormatError(f"Records is {type(records).__name__}, expected a list")
    parsed = Parsed()
    for number, record in enumerate(records):
        try:
            ref = _record(record, decode)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if len(parsed.problems) < MOST_PROBLEMS:
                parsed.problems.append(f"record {number}: {type(error).__name__}: {error}")
        else:
            if ref:
                parsed.created.append(ObjectCreated(ref, source))
    return parsed


def _record(record: dict[str, Any], decode: Callable[[str], str]) -> ObjectRef | None:
    _, _, event = _text(record["eventName"]).partition("ObjectCreated:")
    if event not in CREATED_EVENTS:
        return None
    s3 = record["s3"]
    item = s3["object"]
    # Empty fields are left out by MinIO: a 0-byte object has no size, an unversioned no versionId.
    return ObjectRef(
        bucket=_text(s3["bucket"]["name"]),
        key=_text(decode(_text(item["key"]))),
        etag=_text(item["eTag"]).strip('"') if item.get("eTag") else "",
        size=_size(item.get("size")),
        version_id=_text(item["versionId"]) if item.get("versionId") else None,
        modified=_moment(record.get("eventTime")),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected text, got {type(value).__name__}")
    value.encode()  # a lone surrogate can be in no key, and no database takes it
    if "\0" in value:
        raise ValueError("a NUL can be in no key")
    return value


def _size(value: Any) -> int:
    size = int(value or 0)
    if not 0 <= size <= _LARGEST:
        raise ValueError("a size that no database takes")
    return size


def _moment(text: Any) -> datetime | None:
    """When the event happened, in UTC; None where it is not told or makes no sense."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        return None


def _seaweed(content: dict[str, Any]) -> Parsed:
    try:
        path = _text(content["key"])
        entry = (content.get("message") or {}).get("new_entry") or {}
        created = content["event_type"] in ("create", "update", "rename") and entry
        if not created or entry.get("is_directory") or not path.startswith(_SEAWEED_ROOT):
            return Parsed()
    except (ValueError, AttributeError) as error:
        raise NotificationFormatError(f"SeaweedFS body: {error}") from error
    bucket, _, key = path.removeprefix(_SEAWEED_ROOT).partition("/")
    if not key or key.startswith(_SEAWEED_UPLOADS):
        return Parsed()
    if version := _SEAWEED_VERSION.fullmatch(key):
        return Parsed([ObjectCreated(ObjectRef(bucket, version[1]), "webhook")])
    return Parsed([ObjectCreated(_seaweed_ref(bucket, key, entry), "webhook")])


def _seaweed_ref(bucket: str, key: str, entry: dict[str, Any]) -> ObjectRef:
    """With etag, size and time where the entry tells them; the store is asked for an etag left out."""
    try:
        etag = b64decode(entry["extended"]["Seaweed-X-Amz-ETag"], validate=True).decode().strip('"')
        size = _size(entry["attributes"].get("file_size"))
        modified = datetime.fromtimestamp(entry["attributes"]["mtime"], UTC)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError):
        return ObjectRef(bucket, key)
    return ObjectRef(bucket, key, etag if _ETAG.fullmatch(etag) else "", size, modified=modified)
