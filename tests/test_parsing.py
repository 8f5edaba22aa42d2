"""Payloads of every source to ObjectCreated, against lines recorded from real servers."""

import json
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
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


@pytest.mark.parametrize("parse", [parse_stream_line, parse_webhook_body])
@pytest.mark.parametrize(
    "key", ["../a.csv", "churn/../../a.csv", "/etc/passwd", "a\r\nb.csv", "a\x1b[2Kb.csv"]
)
def test_strange_keys_are_told_as_they_are(parse: Callable[[bytes], Parsed], key: str) -> None:
    assert [ref.key for ref in refs(parse(body(record(key))))] == [key]


@pytest.mark.parametrize("parse", [parse_stream_line, parse_webhook_body])
def test_a_nul_is_in_no_key(parse: Callable[[bytes], Parsed]) -> None:
    parsed = parse(body(record("churn/a\0b.csv")))
    assert refs(parsed) == []
    assert parsed.problems == ["record 0: ValueError: a NUL can be in no key"]


@pytest.mark.parametrize(
    ("told", "modified"),
    [
        ("2026-11-21T07:43:29.123Z", datetime(2026, 11, 21, 7, 43, 29, 123000, UTC)),
        ("2026-11-21T09:43:29+02:00", datetime(2026, 11, 21, 7, 43, 29, tzinfo=UTC)),
        ("2026-11-21T07:43:29", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("yesterday", None),
        ("", None),
        (1795241009, None),
        (None, None),
        ([], None),
    ],
)
def test_the_events_time_is_when_the_object_was_written(told: Any, modified: datetime | None) -> None:
    for parse in (parse_stream_line, parse_webhook_body):
        (ref,) = refs(parse(body({**record(), "eventTime": told})))
        assert ref.modified == modified
        assert ref == ObjectRef("raw", "churn/a.csv", "e1", 3), "the time is no part of what it is"


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
    record(size=1e30),
    record(size=2**63),
    record(size="9" * 30),
    record(key="churn/a\0.csv"),
    record(key="churn/a%00.csv"),
    record(key="churn/\ud800.csv"),
    record(eTag="\ud800"),
    record(eTag="a\0"),
    record(eTag=["e1"]),
    record(versionId="\udfff"),
    record(versionId={"v": 1}),
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


def stored(etag: str, **attributes: Any) -> dict[str, Any]:
    """What SeaweedFS tells of an entry's content."""
    given = {"file_size": 8, "mtime": 1795241213, **attributes}
    return {"attributes": given, "extended": {"Seaweed-X-Amz-ETag": b64encode(etag.encode()).decode()}}


MD5 = "e5ebd4c02cefbe7955977c67ada242b7"


def test_seaweedfs_tells_keys_raw_and_may_leave_out_the_etag() -> None:
    parsed = parse_webhook_body(seaweed("/buckets/raw/churn/a%20b+ü.csv"))
    assert refs(parsed) == [ObjectRef("raw", "churn/a%20b+ü.csv")]
    assert parsed.created[0].source == "webhook"


@pytest.mark.parametrize("etag", [MD5, f"{MD5}-2", f'"{MD5}"'])
def test_seaweedfs_tells_etag_size_and_time(etag: str) -> None:
    (ref,) = refs(parse_webhook_body(seaweed("/buckets/raw/churn/a.csv", **stored(etag))))
    assert ref == ObjectRef("raw", "churn/a.csv", etag.strip('"'), 8)
    assert ref.modified == datetime(2026, 11, 21, 6, 6, 53, tzinfo=UTC)


def test_seaweedfs_leaves_out_the_size_of_an_empty_object() -> None:
    entry = stored(MD5)
    del entry["attributes"]["file_size"]
    assert refs(parse_webhook_body(seaweed("/buckets/raw/a.csv", **entry)))[0].size == 0


@pytest.mark.parametrize(
    "etag", ["", "x", MD5[:-1], MD5 + "0", MD5.upper(), f"{MD5}-", f"{MD5}\n", f"../{MD5}"]
)
def test_what_does_not_look_like_an_etag_is_left_to_the_store(etag: str) -> None:
    (ref,) = refs(parse_webhook_body(seaweed("/buckets/raw/churn/a.csv", **stored(etag))))
    assert (ref.key, ref.etag) == ("churn/a.csv", "")


@pytest.mark.parametrize(
    "entry",
    [
        {"extended": {"Seaweed-X-Amz-ETag": "no base64"}, "attributes": {"mtime": 1}},
        {"extended": {"Seaweed-X-Amz-ETag": "/w=="}, "attributes": {"mtime": 1}},
        {"extended": {"Seaweed-X-Amz-ETag": 7}, "attributes": {"mtime": 1}},
        {"extended": [], "attributes": {"mtime": 1}},
        {"extended": None},
        {**stored(MD5), "attributes": None},
        {**stored(MD5), "attributes": {}},
        {**stored(MD5), "attributes": []},
        stored(MD5, mtime="now"),
        stored(MD5, mtime=1e30),
        stored(MD5, mtime=float("nan")),
        stored(MD5, mtime=float("inf")),
        stored(MD5, file_size="many"),
        stored(MD5, file_size=[8]),
        stored(MD5, file_size=1e30),
        stored(MD5, file_size=2**63),
    ],
)
def test_of_an_entry_that_makes_no_sense_the_key_is_taken(entry: dict[str, Any]) -> None:
    assert refs(parse_webhook_body(seaweed("/buckets/raw/churn/a.csv", **entry))) == [
        ObjectRef("raw", "churn/a.csv")
    ]


@pytest.mark.parametrize("key", ["/buckets/raw/a\0.csv", "/buckets/raw/\ud800.csv", "", None])
def test_seaweedfs_keys_that_can_be_none_raise(key: Any) -> None:
    with pytest.raises(NotificationFormatError):
        parse_webhook_body(seaweed(key))


def test_a_body_of_nothing_but_wrong_records_is_told_in_few_words() -> None:
    parsed = parse_webhook_body(b'{"Records":[' + b"0," * 100_000 + b"0]}")
    assert parsed.created == []
    assert parsed.problems
    assert sum(len(problem) for problem in parsed.problems) < 10_000, "64 such bodies may be at hand at once"


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
