"""Payloads of every source to ObjectCreated, against lines recorded from real servers."""

import json
from typing import Any

import pytest

from dropflow.errors import NotificationFormatError
from dropflow.objects import ObjectRef
from listeners.parsing import Parsed, parse_stream_line, parse_webhook_body


def record(key: str = "churn/a.csv", event: str = "s3:ObjectCreated:Put", **item: Any) -> dict[str, Any]:
    return {
        "eventName": event,
        "s3": {"bucket": {"name": "raw"}, "object": {"key": key, "eTag": "e1", "size": 3, **item}},
    }


def body(*records: Any) -> bytes:
    return json.dumps({"Records": list(records)}).encode()


def refs(parsed: Parsed) -> list[ObjectRef]:
    return [created.ref for created in parsed.created]


def test_every_record_of_a_notification_is_read() -> None:
    parsed = parse_webhook_body(body(record("a"), record("b"), record("c")))
    assert [ref.key for ref in refs(parsed)] == ["a", "b", "c"]


def test_keys_are_decoded_by_source() -> None:
    escaped = "churn/f%C3%A4il%2Bname+a%26b.csv"
    assert refs(parse_webhook_body(body(record(escaped))))[0].key == "churn/fäil+name a&b.csv"
    assert refs(parse_stream_line(body(record("churn/a%20b+c.csv"))))[0].key == "churn/a%20b+c.csv"


@pytest.mark.parametrize("line", [b"", b"   ", b'{"Records":null}', b'  {"Records":null}', b'{"Records":[]}'])
def test_keep_alives_say_nothing(line: bytes) -> None:
    assert parse_stream_line(line) == Parsed()


def test_fields_that_minio_leaves_out_when_empty() -> None:
    bare = record()
    bare["s3"]["object"] = {"key": "empty.csv", "eTag": '"d41d8"', "versionId": ""}
    assert refs(parse_webhook_body(body(bare))) == [ObjectRef("raw", "empty.csv", "d41d8", 0, None)]


@pytest.mark.parametrize(
    "event",
    [
        "s3:ObjectCreated:PutTagging",
        "s3:ObjectCreated:PutRetention",
        "s3:ObjectRemoved:Delete",
        "s3:TestEvent",
    ],
)
def test_events_that_create_no_object_are_passed_over(event: str) -> None:
    assert parse_webhook_body(body(record(event=event))) == Parsed()


@pytest.mark.parametrize("name", ["Put", "Post", "Copy", "CompleteMultipartUpload"])
@pytest.mark.parametrize("prefix", ["s3:ObjectCreated:", "ObjectCreated:"])
def test_events_that_create_an_object(prefix: str, name: str) -> None:
    assert refs(parse_webhook_body(body(record(event=prefix + name))))


BROKEN_RECORDS: list[Any] = [
    None,
    7,
    "text",
    {},
    {"eventName": None},
    {"eventName": "s3:ObjectCreated:Put"},
    {"eventName": "s3:ObjectCreated:Put", "s3": []},
    record(key=""),
    record(size="many"),
    record(size=[1]),
    record(size=float("inf")),
    {**record(), "s3": {"bucket": {"name": 3}, "object": {"key": "k"}}},
]


@pytest.mark.parametrize("broken", BROKEN_RECORDS, ids=range(len(BROKEN_RECORDS)))
def test_a_broken_record_is_reported_and_does_not_hide_the_others(broken: Any) -> None:
    parsed = parse_webhook_body(body(record("a"), broken, record("b")))
    assert [ref.key for ref in refs(parsed)] == ["a", "b"]
    assert len(parsed.problems) == 1
    assert parsed.problems[0].startswith("record 1: ")


def test_a_key_with_a_lone_surrogate_is_a_problem_not_a_crash() -> None:
    raw = b'{"Records":[{"eventName":"s3:ObjectCreated:Put","s3":{"bucket":{"name":"raw"},"object":{"key":"\\ud800"}}}]}'
    assert len(parse_stream_line(raw).problems) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no json",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"Records":7}',
        b'{"Records":{"a":1}}',
        b"\xff\xfe",
        b"[" * 9999,
    ],
)
def test_what_is_no_notification_raises(text: bytes) -> None:
    with pytest.raises(NotificationFormatError):
        parse_webhook_body(text)


def seaweed(key: str, event: str = "create", **entry: Any) -> bytes:
    return json.dumps(
        {"event_type": event, "key": key, "message": {"new_entry": {"name": "x", **entry}}}
    ).encode()


def test_seaweedfs_tells_keys_raw_and_without_etag() -> None:
    parsed = parse_webhook_body(seaweed("/buckets/raw/churn/a%20b+ü.csv"))
    assert refs(parsed) == [ObjectRef("raw", "churn/a%20b+ü.csv")]
    assert parsed.created[0].source == "webhook"


def test_seaweedfs_tells_of_versions_below_the_key() -> None:
    parsed = parse_webhook_body(seaweed(f"/buckets/raw/churn/a.csv.versions/v_{'0' * 32}"))
    assert refs(parsed) == [ObjectRef("raw", "churn/a.csv")]


@pytest.mark.parametrize("key", ["churn/data.versions/x.csv", "churn/.uploads/x.csv"])
def test_folders_that_only_look_like_seaweedfs_own_are_told(key: str) -> None:
    assert refs(parse_webhook_body(seaweed(f"/buckets/raw/{key}"))) == [ObjectRef("raw", key)]


@pytest.mark.parametrize(
    "noise",
    [
        seaweed("/buckets/raw/churn", is_directory=True),
        seaweed("/buckets/raw/.uploads/123/0001.part"),
        seaweed("/buckets/raw"),
        seaweed("/topics/x"),
        seaweed("/buckets/raw/a.csv", event="delete"),
        b'{"event_type":"delete","key":"/buckets/raw/a.csv","message":{"old_entry":{}}}',
        b'{"event_type":"create","key":"/buckets/raw/a.csv","message":null}',
    ],
)
def test_seaweedfs_noise_is_passed_over(noise: bytes) -> None:
    assert parse_webhook_body(noise) == Parsed()


@pytest.mark.parametrize(
    "text",
    [
        b'{"event_type":"create","key":7}',
        b'{"event_type":"create","key":"/buckets/raw/a","message":[1]}',
        b'{"event_type":"create","key":"/buckets/raw/a","message":{"new_entry":"x"}}',
    ],
)
def test_broken_seaweedfs_bodies_raise(text: bytes) -> None:
    with pytest.raises(NotificationFormatError):
        parse_webhook_body(text)
