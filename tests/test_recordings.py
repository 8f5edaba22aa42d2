"""Every line in tests/data was received from a real server: all objects come out with their true keys."""

from pathlib import Path

import pytest

from listeners.parsing import Parsed, parse_stream_line, parse_webhook_body

DATA = Path(__file__).parent / "data"
LONG = "churn/" + "/".join(["k" * 99] * 9)[:880] + ".csv"
DROPPED = {
    "churn/plain.csv",
    "churn/fäil+name a&b.csv",
    "churn/a%20b.csv",
    "churn/dir one/ünïcode 数据.csv",
    LONG,
    "churn/empty.csv",
    "churn/metadata.csv",
    "churn/multipart.csv",
    "churn/copied.csv",
    "churn/versioned.csv",
}


def parsed(name: str) -> list[Parsed]:
    parse = parse_stream_line if name == "minio_stream.ndjson" else parse_webhook_body
    return [parse(line) for line in (DATA / name).read_bytes().splitlines()]


@pytest.mark.parametrize("name", ["minio_stream.ndjson", "minio_webhook.ndjson", "seaweedfs_webhook.ndjson"])
def test_every_object_comes_out_with_its_true_key(name: str) -> None:
    found = parsed(name)
    assert {created.ref.key for one in found for created in one.created} == DROPPED
    assert {created.ref.bucket for one in found for created in one.created} == {"raw"}
    assert [problem for one in found for problem in one.problems] == []


@pytest.mark.parametrize("name", ["minio_stream.ndjson", "minio_webhook.ndjson"])
def test_minio_tells_etag_size_and_version(name: str) -> None:
    refs = [created.ref for one in parsed(name) for created in one.created]
    assert len(refs) == len(DROPPED) + 1, "one of them was overwritten"
    by_key = {ref.key: ref for ref in refs}
    assert all(ref.etag for ref in refs)
    assert by_key["churn/empty.csv"].size == 0
    assert by_key["churn/multipart.csv"].size == 10 * 2**20
    assert by_key["churn/multipart.csv"].etag.endswith("-2")
    assert [ref.key for ref in refs if ref.version_id] == ["churn/versioned.csv"]


def test_minio_tells_when_each_object_was_written() -> None:
    for name in ("minio_stream.ndjson", "minio_webhook.ndjson"):
        refs = [created.ref for one in parsed(name) for created in one.created]
        assert [ref.key for ref in refs if ref.modified is None or ref.modified.year != 2026] == []


def test_seaweedfs_tells_etag_size_and_time_but_of_versions() -> None:
    refs = [created.ref for one in parsed("seaweedfs_webhook.ndjson") for created in one.created]
    told = {ref.key: ref for ref in refs if ref.etag}
    assert set(told) == DROPPED - {"churn/versioned.csv"}
    assert all(ref.size is not None and ref.modified for ref in told.values())
    assert told["churn/empty.csv"].size == 0
    assert told["churn/multipart.csv"].size == 10 * 2**20
    assert told["churn/multipart.csv"].etag.endswith("-2")


def test_both_stores_tell_the_same_etag_of_the_same_bytes() -> None:
    stores = []
    for name in ("minio_webhook.ndjson", "seaweedfs_webhook.ndjson"):
        refs = [created.ref for one in parsed(name) for created in one.created]
        stores.append({ref.key: ref.etag for ref in refs if ref.etag})
    minio, seaweedfs = stores
    assert minio["churn/plain.csv"] == seaweedfs["churn/plain.csv"]
    assert minio["churn/empty.csv"] == seaweedfs["churn/empty.csv"]
