"""Store, receipts, and the keys of receipts and outputs, against moto."""

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pytest
import tenacity
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import assume, example, given
from hypothesis import strategies as st
from serving import QuietHandler, serving
from weed import weed

from dropflow import retry, storage
from dropflow.datasets import Dataset
from dropflow.declarations import load_datasets
from dropflow.errors import (
    AlreadyExistsError,
    ObjectMissingError,
    PermanentError,
    ReceiptError,
    SettingsError,
    TransientError,
)
from dropflow.listing import Listing, parse_listing
from dropflow.objects import ObjectRef
from dropflow.quality import (
    ColumnProfile,
    DriftLine,
    Figures,
    FrameProfile,
    Frequent,
    Numbers,
    kept_drift,
    kept_reasons,
)
from dropflow.receipts import (
    FINGERPRINT,
    MOST_RACES,
    SOURCE,
    Receipt,
    ReceiptName,
    commit_receipt,
    is_orphan,
    latest_receipt,
    parse_receipt_key,
    read_receipt,
    receipt_key,
    standing_receipt,
)
from dropflow.report import to_html
from dropflow.settings import PROJECT, Settings
from dropflow.storage import ABSENT, ObjectStore, connect
from dropflow.transport import Transport

REF = ObjectRef("raw", "churn/a.csv", "etag1")


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry.retrying, "wait", tenacity.wait_none())


def test_put_get_stat_list(store: ObjectStore) -> None:
    for key in ("churn/fäil+name a&b.csv", "churn/a%20b.csv", "churn/folder/"):
        store.put("raw", key, b"abc" if not key.endswith("/") else b"", "text/csv")
    ref, content = store.get("raw", "churn/a%20b.csv")
    assert content == b"abc"
    assert ref == store.stat("raw", "churn/a%20b.csv")
    assert ref.size == 3
    listed = [found.key for found in store.list("raw", "churn/")]
    assert sorted(listed) == ["churn/a%20b.csv", "churn/fäil+name a&b.csv"]


def test_an_upload_tells_its_progress_and_what_the_store_answered(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(b"x" * 1000)
    sent: list[int] = []
    assert store.upload(path, "raw", "churn/up.csv", sent.append).size == 1000
    assert sum(sent) == 1000
    with pytest.raises(PermanentError, match=r"to s3://nowhere/k%0Aline"):
        store.upload(path, "nowhere", "k\nline", sent.append)


def test_listing_goes_through_all_pages(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        store.put("raw", f"k{number}", b"", "text/csv")
    monkeypatch.setattr("dropflow.storage.PAGE", 3)
    assert [ref.key for ref in store.list("raw")] == [f"k{number}" for number in range(7)]


ANSWERS = {
    "with a namespace": b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">%s</ListBucketResult>',
    "without one": b"<ListBucketResult>%s</ListBucketResult>",
}
ITEM = (
    b"<Contents><Key>%s</Key><LastModified>2026-11-30T09:12:13.250Z</LastModified>"
    b"<ETag>&quot;e1&quot;</ETag><Size>7</Size></Contents>"
)


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_page_of_a_listing(answer: str) -> None:
    content = (
        ITEM % b"a+b%25 &amp; c.csv" + ITEM % b"folder/" + b"<NextContinuationToken>t</NextContinuationToken>"
    )
    moment = datetime(2026, 11, 30, 9, 12, 13, 250_000, UTC)
    for encoding, key in ((b"", "a+b%25 & c.csv"), (b"<EncodingType>url</EncodingType>", "a b% & c.csv")):
        page = parse_listing("raw", ANSWERS[answer] % (encoding + content))
        assert page == Listing([ObjectRef("raw", key, "e1", 7)], "t")
        assert page.refs[0].modified == moment
    assert parse_listing("raw", ANSWERS[answer] % b"") == Listing([], None)


def test_a_real_store_lists_any_key_as_it_is(tmp_path: Path) -> None:
    with weed(tmp_path, {("admin", "hush-hush"): ["Admin"]}) as url:
        store = connect(
            Settings.model_validate(
                {"s3_endpoint": url, "s3_access_key": "admin", "s3_secret_key": "hush-hush"}
            )
        )
        store.ensure_bucket("raw")
        keys = {
            f"churn/{name}.csv"
            for name in ("a b", "a+b", "a%20b", "ü 数据", "' \" ; , = & <img src=x>", "t\tb")
        }
        for key in keys:
            store.put("raw", key, b"x", "text/csv")
        assert {ref.key for ref in store.list("raw")} == keys
        assert {ref.key for ref in store.list("raw", "churn/a ")} == {"churn/a b.csv"}


NO_LISTINGS = [
    b"",
    b"<html>a proxy's</html>",
    b"<Error><Code>InternalError</Code></Error>",
    b"<ListBucketResults></ListBucketResults>",
    (ANSWERS["without one"] % (ITEM % b"k"))[:-5],
    ANSWERS["without one"] % b"<Contents><Key>k</Key></Contents>",
    ANSWERS["without one"] % (ITEM % b"k" + b"<IsTruncated>true</IsTruncated>"),
    # The same page for any token.
    ANSWERS["without one"] % (ITEM % b"k" + b"<NextContinuationToken>t</NextContinuationToken>"),
]


@pytest.mark.parametrize("content", NO_LISTINGS)
def test_what_is_no_listing_is_asked_for_again_and_never_taken_for_an_empty_one(
    content: bytes, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(_: Transport, bucket: str, *_more: Any) -> AWSResponse:
        asked.append(bucket)
        return AWSResponse("", 200, {}, io.BytesIO(content))

    monkeypatch.setattr(Transport, "list", answer)
    with pytest.raises(TransientError, match=r"^list s3://raw/: the store's answer is no listing: "):
        list(store.list("raw"))
    assert len(asked) > 1


def test_where_nothing_may_be_only_the_first_writes(store: ObjectStore) -> None:
    store.put("raw", "once", b"1", "text/plain", instead_of=ABSENT)
    with pytest.raises(AlreadyExistsError):
        store.put("raw", "once", b"2", "text/plain", instead_of=ABSENT)
    assert store.get("raw", "once")[1] == b"1"


def test_of_two_who_replace_the_same_bytes_one_writes(store: ObjectStore) -> None:
    first = store.put("raw", "cas", b"1", "text/plain")
    second = store.put("raw", "cas", b"2", "text/plain", instead_of=first.etag)
    with pytest.raises(AlreadyExistsError):
        store.put("raw", "cas", b"late", "text/plain", instead_of=first.etag)
    found, content = store.get("raw", "cas")
    assert (found.etag, content) == (second.etag, b"2")


def test_what_was_to_be_replaced_and_has_vanished_is_a_lost_race(store: ObjectStore) -> None:
    first = store.put("raw", "cas", b"1", "text/plain")
    store.delete("raw", "cas")
    with pytest.raises(AlreadyExistsError):
        store.put("raw", "cas", b"2", "text/plain", instead_of=first.etag)
    with pytest.raises(ObjectMissingError):
        store.stat("raw", "cas")


def test_a_deleted_object_may_be_deleted_again(store: ObjectStore) -> None:
    store.put("raw", "gone", b"", "text/plain")
    store.delete("raw", "gone")
    store.delete("raw", "gone")


def test_metadata_comes_back_with_the_head(store: ObjectStore) -> None:
    told = {"source-etag": "e1", "fingerprint": "f1", "flow-run": "r1"}
    store.put("processed", "a.parquet", b"12", "application/octet-stream", metadata=told)
    head = store.head("processed", "a.parquet")
    assert head.metadata == told
    assert head.ref == store.stat("processed", "a.parquet")
    assert head.ref.modified is not None


def test_an_objects_age_is_told_by_the_stores_own_clock() -> None:
    failing = Failing(date="Sat, 21 Nov 2026 12:01:30 GMT")
    assert failing.store().head("raw", "k").age == 90


TOLD = {"ETag": '"e"', "Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT", "Content-Length": "3"}


class Sparing(QuietHandler):
    """A store that tells of an object what its key says: `ETag=` for an empty one, `ETag` for none."""

    def do_GET(self) -> None:
        name, is_there, value = unquote(self.path).rpartition("/")[2].partition("=")
        self.send_response(200)
        for header, good in TOLD.items():
            if header != name or is_there:
                self.send_header(header, value if header == name else good)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"abc")

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:  # noqa: N802
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()


@pytest.fixture
def sparing() -> Iterator[ObjectStore]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Sparing)) as server:
        place = {"s3_endpoint": f"http://127.0.0.1:{server.server_port}"}
        yield connect(Settings.model_validate({**place, "s3_access_key": "a", "s3_secret_key": "hush"}))


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("ETag", "no ETag of it"),
        ('ETag=""', "an unreadable ETag of it ('\"\"')"),
        ("Last-Modified", "no Last-Modified of it"),
        ("Last-Modified=yesterday", "an unreadable Last-Modified of it ('yesterday')"),
        ("Last-Modified=Sat, 21 Nov 99999 12:00:00 GMT", "an unreadable Last-Modified of it"),
        ("Content-Length=much", "an unreadable Content-Length of it ('much')"),
        ("Content-Length=-3", "an unreadable Content-Length of it ('-3')"),
        (f"Content-Length={2**63}", "an unreadable Content-Length of it"),
    ],
)
def test_an_object_that_its_store_does_not_tell_of_is_an_error_of_that_object(
    sparing: ObjectStore, key: str, told: str
) -> None:
    assert sparing.stat("raw", "good.csv") == ObjectRef("raw", "good.csv", "e", 3)
    for read in (sparing.stat, sparing.get, sparing.open, sparing.exists):
        with pytest.raises(PermanentError) as raised:
            read("raw", key)
        assert str(raised.value).startswith(f"s3://raw/{key}: the store tells {told}"), read
        assert str(raised.value).endswith("copy it onto itself, or upload it again")


def test_a_write_that_is_answered_with_an_empty_etag_is_an_error_of_that_object(sparing: ObjectStore) -> None:
    assert sparing.put("raw", "good.csv", b"abc", "text/csv").etag == "e"
    with pytest.raises(PermanentError, match=r"^s3://raw/ETag=: the store tells no ETag of it"):
        sparing.put("raw", "ETag=", b"abc", "text/csv")


def test_times_that_are_told_oddly_are_times_all_the_same(sparing: ObjectStore) -> None:
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    # Of "-0000" Python makes a time that can be compared with no other.
    assert sparing.stat("raw", "Last-Modified=Sat, 21 Nov 2026 12:00:00 -0000").modified == noon
    assert abs(Failing(date="whenever").store().head("raw", "k").age) > 1


def test_an_entry_of_a_listing_without_etag_hides_no_other() -> None:
    bare = ITEM.replace(b"&quot;e1&quot;", b"").replace(b"13.250Z", b"13") % b"bare"
    page = parse_listing("raw", ANSWERS["without one"] % (ITEM % b"a" + bare + ITEM % b"b"))
    assert [(ref.key, ref.etag) for ref in page.refs] == [("a", "e1"), ("bare", ""), ("b", "e1")]
    assert all(ref.modified and ref.modified.tzinfo for ref in page.refs)
    with pytest.raises(ValueError, match="the size of k is '9223372036854775808'"):
        parse_listing("raw", ANSWERS["without one"] % (ITEM.replace(b">7<", b">%d<" % 2**63) % b"k"))


def test_missing_objects_are_told_apart(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissingError, match="deleted or renamed"):
        store.get("raw", "gone")
    with pytest.raises(ObjectMissingError):
        store.stat("raw", "gone")


class Failing:
    """A transport that raises what it is given, then succeeds."""

    def __init__(self, *errors: Exception, date: str = "Sat, 21 Nov 2026 12:00:00 GMT") -> None:
        self.errors = list(errors)
        self.date = date
        self.calls = 0

    def send(self, *_: Any) -> AWSResponse:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        headers = {"ETag": '"e"', "Content-Length": "1", "Date": self.date}
        return AWSResponse("", 200, {**headers, "Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT"}, None)

    def store(self) -> ObjectStore:
        return ObjectStore(cast("Transport", self), pytest.fail)


def answer(status: int, code: str = "") -> ClientError:
    return ClientError(
        {"Error": {"Code": code or str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Head"
    )


@pytest.mark.parametrize(
    "error",
    [
        answer(503),
        answer(500),
        answer(429),
        answer(400, "RequestTimeout"),
        EndpointConnectionError(endpoint_url="x"),
    ],
)
def test_transient_errors_are_tried_again(error: Exception) -> None:
    failing = Failing(error, error)
    assert failing.store().stat("raw", "k").etag == "e"
    assert failing.calls == 3


def test_transient_errors_end_after_the_last_attempt() -> None:
    failing = Failing(*[answer(503)] * 99)
    with pytest.raises(TransientError, match="stat s3://raw/k: the store answered 503"):
        failing.store().stat("raw", "k")
    assert failing.calls == retry.ATTEMPTS


@pytest.mark.parametrize("error", [answer(403, "AccessDenied"), answer(400, "InvalidArgument"), answer(404)])
def test_permanent_errors_are_never_tried_again(error: Exception) -> None:
    failing = Failing(error)
    with pytest.raises(PermanentError):
        failing.store().stat("raw", "k")
    assert failing.calls == 1


def test_without_a_store_the_settings_to_make_are_named(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="DROPFLOW_S3_ENDPOINT"):
        connect(settings.model_copy(update={"s3_endpoint": None}))


def receipt(**changes: Any) -> Receipt:
    fields = {"dataset": "churn", "bucket": "raw", "key": REF.key, "etag": REF.etag, "fingerprint": "f1"}
    return Receipt(**{**fields, "fate": "processed", **changes})


def test_many_threads_may_connect_at_once(settings: Settings) -> None:
    for _ in range(3):
        storage.shared_session.cache_clear()
        storage._core.cache_clear()
        together = threading.Barrier(8)

        def connected(_: int, together: threading.Barrier = together) -> object:
            together.wait()
            return connect(settings).client

        with ThreadPoolExecutor(8) as threads:
            assert len(list(threads.map(connected, range(8)))) == 8


def test_one_receipt_per_object_and_fingerprint(store: ObjectStore, churn: Dataset) -> None:
    first, second = receipt(flow_run_id="1"), receipt(flow_run_id="2")
    assert commit_receipt(store, churn, first, force=False) is True
    assert commit_receipt(store, churn, second, force=False) is False
    assert read_receipt(store, churn, REF, "f1") == first
    assert commit_receipt(store, churn, first, force=False) is True, "its own lost answer"
    assert commit_receipt(store, churn, second, force=True) is True
    assert read_receipt(store, churn, REF, "f1") == second


def test_a_receipts_figures_come_back_as_they_were(store: ObjectStore, churn: Dataset) -> None:
    numbers = Numbers((0.1, 0.2, 1e308), (1, 2), 0.1, 0.15, 0.1, 1e308)
    columns = (
        ColumnProfile("n", "number", 1, 3, numbers, infinite=2),
        ColumnProfile("t\u2028<b>", "text", 0, 1, Frequent((("x", 1),), 0)),
        ColumnProfile("empty", "text", 4, 0, None),
    )
    figures = Figures(
        before=FrameProfile(4, columns, left_out=3),
        after=FrameProfile(0, ()),
        quarantined=kept_reasons({"a": 1, "b": 2}, {"a": "1\ud800\n2", "b": "x" * 10_000}),
        drift=kept_drift([DriftLine("n", float("inf"), None, flagged=True)]),
        seconds=0.25,
    )
    made = receipt(figures=figures)
    assert commit_receipt(store, churn, made, force=False)
    assert read_receipt(store, churn, REF) == made
    assert made.to_json().splitlines()[-2].startswith(b' "figures":{"before"')
    assert [(one.reason, len(one.example)) for one in figures.quarantined] == [("b", 2000), ("a", 4)]


@pytest.mark.parametrize(
    ("given", "forged"),
    [
        ('"counts":[1,2]', '"counts":[0,0]'),
        ('"counts":[1,2]', '"counts":[]'),
        ('"edges":[0.0,1.0,2.0]', '"edges":[0.0]'),
        ('"values":[["x",1]]', '"values":[["x",0]]'),
        ('"rows":3', '"rows":0'),
        ('"min":0.0', '"min":"NaN"'),
        ('"max":2.0', '"max":"Infinity"'),
        ('"missing":1', '"missing":-1'),
    ],
)
def test_forged_figures_are_shown_or_refused(given: str, forged: str) -> None:
    columns = (
        ColumnProfile("n", "number", 1, 3, Numbers((0.0, 1.0, 2.0), (1, 2), 0.0, 1.0, 1.0, 2.0)),
        ColumnProfile("t", "text", 1, 1, Frequent((("x", 1),), 0)),
    )
    figures = Figures(before=FrameProfile(3, columns), after=FrameProfile(3, columns))
    text = receipt(figures=figures).to_json().decode()
    assert given in text
    try:
        quality = Receipt.model_validate_json(text.replace(given, forged)).quality
    except ValueError:
        return
    assert quality
    assert to_html(quality)


def test_receipts_are_found_by_object_and_recipe(store: ObjectStore, churn: Dataset) -> None:
    assert read_receipt(store, churn, REF) is None
    old, new = receipt(fingerprint="f1"), receipt(fingerprint="f2")
    commit_receipt(store, churn, old, force=False)
    commit_receipt(store, churn, new, force=False)
    assert read_receipt(store, churn, REF, "f1") == old
    assert read_receipt(store, churn, REF) == new
    assert read_receipt(store, churn, ObjectRef("raw", REF.key, "etag")) is None
    assert read_receipt(store, churn, ObjectRef("raw", REF.key, "other")) is None


def test_a_receipt_key_always_fits(churn: Dataset) -> None:
    longest = ObjectRef("raw", "churn/" + "ü" * 500 + ".csv", "e" * 40)
    assert len(receipt_key(churn, longest, "f" * 16).encode()) <= 1024
    other = ObjectRef("raw", "churn/" + "ü" * 499 + "x.csv", "e" * 40)
    assert receipt_key(churn, longest, "f") != receipt_key(churn, other, "f")


def test_an_unreadable_receipt_is_named(store: ObjectStore, churn: Dataset) -> None:
    key = receipt_key(churn, REF, "f1")
    store.put("processed", key, b"{", "application/json")
    with pytest.raises(ReceiptError, match="is no receipt: delete it"):
        read_receipt(store, churn, REF)


def output(store: ObjectStore, content: bytes = b"output", **metadata: str) -> dict[str, str]:
    """Write an output; the fields of a receipt that tells of it."""
    ref = store.put("processed", "churn/a.parquet", content, "application/octet-stream", metadata=metadata)
    return {"output_bucket": ref.bucket, "output_key": ref.key, "output_etag": ref.etag}


def test_a_receipt_stands_while_its_output_is_there(store: ObjectStore, churn: Dataset) -> None:
    told = receipt(**output(store))
    commit_receipt(store, churn, told, force=False)
    assert standing_receipt(store, churn, REF) == told
    output(store, b"of other bytes")
    assert standing_receipt(store, churn, REF) is None
    store.delete("processed", "churn/a.parquet")
    assert standing_receipt(store, churn, REF, "f1") is None
    assert read_receipt(store, churn, REF) == told


def test_a_receipt_whose_output_was_replaced_gives_way_without_force(
    store: ObjectStore, churn: Dataset
) -> None:
    commit_receipt(store, churn, receipt(flow_run_id="1", **output(store)), force=False)
    again = receipt(flow_run_id="2", **output(store, b"anew"))
    assert commit_receipt(store, churn, again, force=False) is True
    assert read_receipt(store, churn, REF, "f1") == again
    assert commit_receipt(store, churn, receipt(flow_run_id="3"), force=False) is False


def test_the_latest_receipt_comes_with_its_own_reference(store: ObjectStore, churn: Dataset) -> None:
    assert latest_receipt(store, churn, REF) is None
    commit_receipt(store, churn, receipt(fingerprint="z"), force=False)
    commit_receipt(store, churn, latest := receipt(fingerprint="a"), force=False)
    found = latest_receipt(store, churn, REF)
    assert found is not None
    assert found == (store.stat("processed", receipt_key(churn, REF, "a")), latest)


def test_a_receipt_that_others_keep_writing_is_given_up(
    store: ObjectStore, churn: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, key = Transport.send, receipt_key(churn, REF, "f1")
    races = 0

    def overtaken(transport: Transport, method: str, *request: Any) -> AWSResponse:
        nonlocal races
        if method == "PUT":
            races += 1
            other = receipt(flow_run_id=f"other {races}").model_dump_json().encode()
            real(transport, "PUT", "processed", key, {}, other)
        return real(transport, method, *request)

    monkeypatch.setattr(Transport, "send", overtaken)
    with pytest.raises(TransientError, match="other runs write it, too"):
        commit_receipt(store, churn, receipt(), force=True)
    assert races == MOST_RACES


def test_an_output_is_an_orphan_until_a_receipt_tells_of_it(store: ObjectStore, churn: Dataset) -> None:
    written = output(store, **{SOURCE: REF.etag, FINGERPRINT: "f1"})
    head = store.head("processed", written["output_key"])
    assert is_orphan(store, churn, REF.key, head)
    commit_receipt(store, churn, receipt(), force=False)
    assert is_orphan(store, churn, REF.key, head), "the receipt tells of no output"
    commit_receipt(store, churn, receipt(**written), force=True)
    assert not is_orphan(store, churn, REF.key, head)
    output(store, b"of somebody else")
    assert not is_orphan(store, churn, REF.key, store.head("processed", written["output_key"]))


CHURN = load_datasets(PROJECT / "datasets")["churn"]
KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
ETAGS = st.from_regex(r"[0-9a-f]{32}(-[0-9]{1,4})?", fullmatch=True)
FINGERPRINTS = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)


@given(KEYS, ETAGS, FINGERPRINTS)
@example("a/b.json", "e", "f")
@example("/", "e", "f")
@example("a//b/", "e.e", "f")
@example("_receipts/churn/a.csv/e.f.json", "e", "f")
def test_a_receipts_key_tells_of_what_it_is(key: str, etag: str, fingerprint: str) -> None:
    assume(not key.startswith("~"))
    name = receipt_key(CHURN, ObjectRef("raw", key, etag), fingerprint)
    assert parse_receipt_key(name) == ReceiptName("churn", key, etag, fingerprint)


@given(st.integers(880, 1024), ETAGS, FINGERPRINTS)
def test_the_key_of_a_long_keys_receipt_tells_all_but_the_key(size: int, etag: str, fingerprint: str) -> None:
    name = receipt_key(CHURN, ObjectRef("raw", "k" * size, etag), fingerprint)
    assert len(name) <= 1024
    assert parse_receipt_key(name) == ReceiptName("churn", "", etag, fingerprint)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "_receipts/",
        "_receipts/churn/e.f.json",
        "_receipts/churn/a.csv/e.f",
        "_receipts/churn/a.csv/e.json",
        "_receipts/churn/a.csv/.f.json",
        "_receipts/churn/a.csv/.json",
        "churn/a.csv/e.f.json",
        "x_receipts/churn/a.csv/e.f.json",
    ],
)
def test_other_keys_are_no_receipts(key: str) -> None:
    assert parse_receipt_key(key) is None


PIECES = st.sampled_from(["a", "b", "ü", ".", ".csv", ".txt", "csv", ".parquet", "~", "*"])
BELOW = st.lists(st.one_of(PIECES, st.just("/")), max_size=6).map("".join)
BESIDE = st.lists(PIECES, max_size=6).map("".join)
ENDINGS = st.sampled_from([".csv", ".txt"])
KEYS_OF = st.one_of(
    st.builds("raw/churn/**/*.csv churn/{}.csv".format, BELOW),
    st.builds("raw/**/*.csv {}.csv".format, BELOW),
    st.builds("raw/** {}x".format, BELOW),
    st.builds("raw/*.csv {}.csv".format, BESIDE),
    st.builds("raw/{{a,churn}}/*.csv a/{}.csv".format, BESIDE),
    st.builds("raw/churn/*.{{csv,txt}} churn/{}{}".format, BESIDE, ENDINGS),
).map(str.split)


@given(KEYS_OF)
@example(["raw/churn/**/*.csv", "churn/a.csv.csv"])
@example(["raw/churn/**/*.csv", "churn/churn/a.parquet.csv"])
@example(["raw/churn/**/*.csv", "churn/.csv.csv"])
@example(["raw/churn/**/*.csv", "churn/.csv"])
def test_an_output_tells_the_one_key_it_comes_from(match_and_key: list[str]) -> None:
    match, key = match_and_key
    dataset = CHURN.model_copy(update={"match": match})
    assume(dataset.matches("raw", key))
    assert dataset.source_key(dataset.output_key(key)) == key


@pytest.mark.parametrize(
    "key", ["churn", "other/a.parquet", "churn/a.csv", "_receipts/churn/a.csv/e.f.json", ""]
)
def test_what_is_no_output_of_the_dataset_comes_from_no_key(key: str) -> None:
    assert CHURN.source_key(key) is None
