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
