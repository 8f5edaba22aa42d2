"""Files prepared part by part become what they become as a whole."""

import io
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_store import MemoryStore

from dropflow.datasets import Dataset
from dropflow.errors import RejectedError, TransientError, UntrustedError
from dropflow.formats import Reading
from dropflow.samples import churn_csv
from flows import learners, outofcore, reading
from flows.learners import BOUND, SAMPLE
from flows.outofcore import OutOfCore, why_not
from flows.preparation import Preparation
from flows.reading import delimited, plain
from flows.transformers import to_numbers

CONTENT = churn_csv(rows=6_000, seed=71)
PART = 40_000
"""Bytes: some ten parts."""


def chunked(content: bytes, size: int = 7_001) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def whole(dataset: Dataset, content: bytes) -> tuple[pd.DataFrame, dict[str, Any]]:
    return _prepared(dataset, content, float("inf"))


def in_parts(
    dataset: Dataset, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> tuple[pd.DataFrame, dict[str, Any]]:
    monkeypatch.setattr(outofcore, "PART_BYTES", PART)
    return _prepared(dataset, content, 1)


def _prepared(dataset: Dataset, content: bytes, large: float) -> tuple[pd.DataFrame, dict[str, Any]]:
    store = MemoryStore()
    store.put("raw", "churn/a.csv", content, "text/csv")
    done = Preparation(store, dataset, "run", large_bytes=large).prepare("churn/a.csv")  # type: ignore[arg-type]
    assert done.result == "processed", done.message
    (receipt,) = (store.get("processed", ref.key)[1] for ref in store.list("processed", "_receipts/"))
    output = pd.read_parquet(io.BytesIO(store.get("processed", "churn/a.parquet")[1]))
    return output, pd.read_json(io.BytesIO(b"[" + receipt + b"]")).iloc[0].to_dict()


def changed(churn: Dataset, **fields: Any) -> Dataset:
    return Dataset.model_validate({**churn.model_dump(mode="json", exclude_unset=True), **fields})


STEPS: dict[str, list[dict[str, Any]]] = {
    "mean, minmax": [
        {"impute": {"Age": "mean", "Gender": {"constant": "unknown"}}},
        {"scale": {"method": "minmax", "columns": ["Age", "Balance"]}},
    ],
    "most frequent, categories of the file": [
        {"impute": {"Gender": "most_frequent", "Age": "median", "Surname": {"constant": "nobody"}}},
        {"encode": {"Surname": "ordinal", "Geography": "onehot"}},
    ],
    "filter, derive, clip, bins": [
        {"filter": {"Age": {"min": 30}}},
        {"derive": {"ratio": {"ratio": ["Balance", "EstimatedSalary"]}}},
        {"clip": {"Balance": {"quantiles": [0.05, 0.95]}}},
        {"bin": {"CreditScore": {"bins": 5, "strategy": "quantile"}}},
    ],
    "robust, target, frequency": [
        {"impute": {"Age": "median"}},
        {"encode": {"Geography": "target", "Gender": "frequency"}},
        {"scale": {"method": "robust", "columns": ["Age", "Balance"]}},
    ],
    "nothing": [],
}


@pytest.mark.parametrize("name", ["as declared", *STEPS])
def test_parts_become_what_the_whole_becomes(
    churn: Dataset, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = churn if name == "as declared" else changed(churn, steps=STEPS[name])
    expected, told = whole(dataset, CONTENT)
    found, told_in_parts = in_parts(dataset, CONTENT, monkeypatch)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12)
    for field in ("rows_in", "rows_out", "filtered", "quarantined", "output_key"):
        assert told_in_parts[field] == told[field], field
    assert [step["name"] for step in told_in_parts["steps"]] == [step["name"] for step in told["steps"]]


def test_bad_rows_are_set_aside_with_their_place_in_the_file(
    churn: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = CONTENT.splitlines(keepends=True)
    for row in (3, 2_500, 5_990):
        cells = lines[row].split(b",")
        cells[3] = b"-7"
        lines[row] = b",".join(cells)
    dataset = changed(churn, quarantine={"max_share": 0.01})
    expected, told = whole(dataset, b"".join(lines))
    found, told_in_parts = in_parts(dataset, b"".join(lines), monkeypatch)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12)
    assert told_in_parts["quarantined"] == told["quarantined"] == 3
    assert _quarantined(dataset, b"".join(lines), 1) == _quarantined(dataset, b"".join(lines), float("inf"))


def _quarantined(dataset: Dataset, content: bytes, large: float) -> bytes:
    store = MemoryStore()
    store.put("raw", "churn/a.csv", content, "text/csv")
    Preparation(store, dataset, "run", large_bytes=large).prepare("churn/a.csv")  # type: ignore[arg-type]
    (found,) = (store.get("processed", ref.key)[1] for ref in store.list("processed", "_quarantine/"))
    return found


def test_too_many_bad_rows_reject_the_file_as_a_whole(churn: Dataset, tmp_path: Path) -> None:
    bad = CONTENT.replace(b",France,", b",Atlantis,")
    with pytest.raises(RejectedError, match="column Geography: the value 'Atlantis' in data row"):
        OutOfCore(churn, tmp_path, part_bytes=PART).prepare(chunked(bad), len(bad))


def test_what_is_wrong_in_a_later_part_says_where(churn: Dataset, tmp_path: Path) -> None:
    bad = CONTENT + b"1,2\xff,3\n"
    with pytest.raises(RejectedError, match=r"is not UTF-8 text.*\(after data row [1-5],"):
        OutOfCore(churn, tmp_path, part_bytes=PART).prepare(chunked(bad), len(bad))


def test_a_full_disk_is_no_fault_of_the_file(churn: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="GiB of disk below"):
        OutOfCore(churn, tmp_path).prepare(chunked(CONTENT), 2**60)


def test_more_rows_than_are_kept_are_sampled_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners, "MOST_DISTINCT", 10)
    draw = np.random.default_rng(5)
    from flows.steps import SimpleImputer

    one = learners.learner(["x"], SimpleImputer(strategy="median"))
    everything = draw.exponential(size=3 * SAMPLE)
    everything.sort()
    for start in range(0, len(everything), 100_000):
        one.add(pd.DataFrame({"x": everything[start : start + 100_000]}), None)
    assert not one.is_exact
    median = one.fitted().statistics_[0]
    assert abs((everything < median).mean() - 0.5) < BOUND


NASTY = {
    "quotes and line ends": b'\xef\xbb\xbf\n\na,"b\nc"\n'
    + b"".join(b'%d,"line one\nline ""two"", %d"\n' % (n, n) for n in range(50)),
    "returns alone": b"a,b\r" + b"".join(b"%d,%d\r" % (n, n) for n in range(50)),
    "returns before the first line end": b"a,b\r7777,1\r8888,2\n"
    + b"".join(b"%d,2\n" % n for n in range(90)),
    "a quote that is text": b'a,b\n1,5" pipe\n' + b"".join(b'%d,"x\ny"\n' % n for n in range(90)),
    "a quote in the header": b'a,b,c "\n1,2,x "\n' + b"".join(b"%d,2,3\n" % n for n in range(90)),
    "blank lines": b"a,b\n1,2\n" + b"\n" * 500 + b"".join(b"%d,2\n" % n for n in range(90)),
    "gaps alone": b"a,b\n" + b"1,2\n" * 90 + b",\n" * 9,
    "no last line end": b"a;b\n" + b"1;2\n" * 90 + b"3;4",
}


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("size", [10, 300])
def test_a_stream_is_what_the_whole_is(name: str, size: int) -> None:
    expected = reading.read(NASTY[name], "x.csv", Reading(), ["a"])
    found = list(reading.stream(chunked(NASTY[name], 101), Reading(), ["a"], size))
    assert len(found) > 1 or size == 300
    together = pd.concat(found, ignore_index=True)
    pd.testing.assert_frame_equal(together, expected, check_dtype=False)


NUMBERS = [
    *(
        "+1",
        " 1",
        "1 ",
        "1.",
        ".5",
        "1e5",
        "inf",
        "-inf",
        "Infinity",
        "nan",
        "NaN",
        "NAN",
        "-nan",
        "0x10",
        "1_0",
    ),
    *(
        "1e400",
        "-1e400",
        "1e-400",
        "True",
        "",
        "007",
        "9007199254740993",
        "18446744073709551616",
        '""',
        '"1"',
    ),
    *('" 1"', "1d5", "1e", "--1", "123456789.123456789", "4.9e-324", "NA", "\u00b2", "\uff11"),
]
TEXTS = [
    *(
        "x",
        " x ",
        "",
        '""',
        "NA",
        "007",
        '"a,b"',
        '"a""b"',
        '"a\nb"',
        'a"b',
        '"a"b',
        'a"b"c',
        '"x',
        "é",
        "\\N",
    ),
    *("null", "a\\,b", "  ", "\x0b", "1.0", "x,y", "x,", "\xa0"),
]


def spelled(*rows: str) -> bytes:
    """Between rows enough for parts of their own."""
    plain = [f"{number},some text" for number in range(20)]
    return "\n".join(["a,b", *plain, *rows, *plain, ""]).encode()


SPELLED = [
    *NASTY.values(),
    *(spelled(f"{number},x") for number in NUMBERS),
    *(spelled(f"7,{text}") for text in TEXTS),
    *(spelled(row) for row in ("", " ", ",", "7", "\r", "7,x\r8,y")),
    *(b"a,b\r\n1,x\r\n2,y", b"a,b\n1,\xff\n", b"\n" + spelled(), b"\xef\xbb\xbf" + spelled()),
    *(b"a, b\n1,x\n", b"a,\n1,x\n", b'"a",b\n1,x\n', b"a\n1\n", b"a;b\n1;x\n", b"a,b\n1,x\n2,\0\n"),
    *(b"a,b\n2026-01-02,x\n", b"a,b\ntrue,x\n", b"a,b\n12:30,x\n", b"a,b\n,x\n", b"b,b\n1,2\n"),
    *(b"a,b\n9007199254740993,x\n,y\n", b"a,b\n-9007199254740993,x\n", b"a,b\n9223372036854775808,x\n"),
    *(b"a,b\n\xef\xbb\xbf1,x\n", b"b,a\n\xef\xbb\xbfx,1\n", b"a,b\n" + b"\xef\xbb\xbf1,x\n" * 12),
    *(b'a,b\n0,a"b\n0.0,"\n', b'a,b\n0,a"b\n1,"x\n2,y\n', spelled('7,"a""b"', '8,"a,"",b"', '9,"""x"')),
]


def by_pandas(content: bytes) -> pd.DataFrame | str:
    """The frame, or what is wrong with the file."""
    try:
        frame = delimited.read(content, Reading(), frozenset({"a"}))
    except RejectedError as error:
        return str(error)
    return "no rows" if frame.empty else frame


@pytest.mark.parametrize("content", SPELLED)
@pytest.mark.parametrize("size", [64, 2**20])
def test_what_arrow_reads_is_what_pandas_reads_or_nothing(content: bytes, size: int) -> None:
    expected = by_pandas(content)
    found: Any
    try:
        found = pd.concat(
            reading.stream_fast(chunked(content, 50), Reading(), ["a"], size), ignore_index=True
        )
    except reading.NotPlainError:
        return
    except RejectedError as error:
        found = str(error)
    if isinstance(expected, str):
        assert found == expected
        return
    numbers = to_numbers(expected["a"])
    assert (numbers.isna() == expected["a"].isna()).all(), "what is no number is a bad row"
    pd.testing.assert_frame_equal(found, expected.assign(a=numbers), check_exact=True)


def check_whole(content: bytes) -> None:
    """What Arrow reads at once is what pandas reads, to the types (but for +1), or nothing."""
    try:
        found = plain.read(content, Reading(), frozenset({"a"}))
    except reading.NotPlainError:
        return
    expected = by_pandas(content)
    assert not isinstance(expected, str), expected
    pd.testing.assert_frame_equal(found, expected, check_exact=True, check_dtype=b"+" not in content)


@pytest.mark.parametrize("content", SPELLED)
def test_whole_files_are_read_by_arrow_as_by_pandas_or_not_at_all(content: bytes) -> None:
    check_whole(content)


ROW = st.one_of(
    st.tuples(st.integers(-(10**17), 10**17).map(str), st.sampled_from(TEXTS)),
    st.tuples(st.floats(width=32).map(repr), st.text("ab,\"' \t\r\n0x", max_size=4)),
    st.tuples(st.sampled_from(NUMBERS), st.sampled_from(TEXTS)),
)


@given(
    st.lists(ROW, min_size=1, max_size=6),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([",", ";"]),
    st.booleans(),
    st.sampled_from([24, plain.BEGINNING]),
)
def test_any_rows_are_read_by_arrow_as_by_pandas_or_not_at_all(
    rows: list[tuple[str, str]],
    end: str,
    delimiter: str,
    text_first: bool,
    beginning: int,
) -> None:
    table = [("a", "b"), *rows]
    lines = [delimiter.join(reversed(row) if text_first else row) for row in table]
    with patch.object(plain, "BEGINNING", beginning):
        check_whole(end.join([*lines, ""]).encode())


def test_a_delimiter_that_the_beginning_does_not_tell_is_looked_for_in_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plain, "BEGINNING", 40)
    content = b"a;b;c,d\n" + b'"1\n2345678901234567890";y;z,w\n' * 25
    with pytest.raises(reading.NotPlainError):
        plain.read(content, Reading(), frozenset())
    assert list(reading.read(content, "x.csv", Reading(), []).columns) == ["a", "b", "c,d"]


def test_a_plain_file_is_not_read_by_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "read", pytest.fail)
    header = CONTENT.partition(b"\n")[0].decode().split(",")
    numbers = {name for name in header if name not in ("Surname", "Geography", "Gender")}
    found = reading.read(CONTENT, "x.csv", Reading(), numbers)
    assert found.shape == (6_000, len(header))
    assert found["RowNumber"].dtype == "int64"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a,b\n" + b"1,2\n" * 90 + b"1,\0\n", "NUL byte"),
        (b"a,b\n" + b"1,2\n" * 90 + b"1," + b"2" * 1000, "no line ends"),
    ],
)
def test_what_is_not_plain_is_told(content: bytes, reason: str) -> None:
    with pytest.raises(reading.NotPlainError, match=reason):
        list(reading.stream_fast(chunked(content, 101), Reading(), [], 40))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a,b\n" + b"1,2\n" * 90 + b"1,\0\n", "NUL byte"),
        (b"a,b\n" + b"1,2\n" * 90 + b"1,2,3\n", "more values in its rows|is no readable CSV"),
        (b"a,b\n" + b"1,2\n" * 90 + b'1,"2\n', "is no readable CSV"),
        (b"a,b\n" + b"1,2\n" * 90 + b"1,\xff\n", "is not UTF-8 text"),
        (b"a,a\n" + b"1,2\n" * 90, "columns of the same name"),
    ],
)
def test_what_is_wrong_in_a_stream_is_told(content: bytes, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason):
        list(reading.stream(chunked(content, 101), Reading(), [], 40))


def test_a_part_may_lose_all_its_rows(churn: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted by what is filtered, and scaled before it is clipped."""
    lines = CONTENT.splitlines(keepends=True)
    ordered = lines[:1] + sorted(lines[1:], key=lambda line: float(line.split(b",")[8]))
    steps: list[dict[str, Any]] = [
        {"filter": {"Balance": {"min": 100_000}}},
        {"impute": {"Age": "mean"}},
        {"scale": {"columns": ["Balance", "Age"]}},
        {"clip": {"Age": {"quantiles": [0.1, 0.9]}}},
    ]
    dataset = changed(churn, steps=steps)
    expected, _ = whole(dataset, b"".join(ordered))
    found, _ = in_parts(dataset, b"".join(ordered), monkeypatch)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12)


def test_a_part_may_be_bad_altogether(churn: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = CONTENT + b"".join(b"1,2,x,-9,Spain,Male,40,1,0,1,1,1,100,1\n" for _ in range(1_500))
    dataset = changed(churn, quarantine={"max_share": 0.3})
    expected, told = whole(dataset, bad)
    found, told_in_parts = in_parts(dataset, bad, monkeypatch)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12)
    assert told_in_parts["quarantined"] == told["quarantined"] == 1_500


def test_prepared_again_in_the_same_folder_it_is_the_same(churn: Dataset, tmp_path: Path) -> None:
    bad = CONTENT + b"1,2,x,-9,Spain,Male,40,1,0,1,1,1,100,1\n"
    dataset = changed(churn, quarantine={"max_share": 0.3})
    work = OutOfCore(dataset, tmp_path, part_bytes=PART)
    for _ in range(2):
        spool = work.prepare(chunked(bad), len(bad)).spool
        assert spool.quarantine
        assert len(pd.read_csv(spool.quarantine)) == spool.bad_rows == 1


def parquet(frame: pd.DataFrame, **options: Any) -> bytes:
    file = io.BytesIO()
    frame.to_parquet(file, index=False, **options)
    return file.getvalue()


def test_parquet_in_parts_becomes_what_the_whole_becomes(
    churn: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.read_csv(io.BytesIO(CONTENT))
    frame.loc[5_000, "Age"] = 400
    frame["Visits"] = pd.array([1] * 5_999 + [None], dtype="Int64")
    content = parquet(frame, row_group_size=4_000)
    dataset = changed(churn, quarantine={"max_share": 0.01}, unknown_columns="keep")
    expected, told = whole(dataset, content)
    found, told_in_parts = in_parts(dataset, content, monkeypatch)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12)
    assert expected["Visits"].isna().sum() == 1
    assert told_in_parts["rows_in"] == told["rows_in"] == 6_000
    assert told_in_parts["quarantined"] == told["quarantined"] == 1
    assert told_in_parts["steps"][0]["detail"].endswith("part by part")


KINDS = {
    "whole": pd.Series([1, 2, 3, 4] * 500, dtype="int32"),
    "whole with a late gap": pd.Series([1] * 1_999 + [None], dtype="Int64"),
    "huge with a late gap": pd.Series([2**60 + 1] * 1_999 + [None], dtype="Int64"),
    "half": pd.Series([0.5, None] * 1_000),
    "yes or no": pd.Series([True] * 1_999 + [None], dtype="boolean"),
    "time": pd.Series(pd.date_range("2026-01-01", periods=2_000, freq="h")),
    "day": pd.Series(pd.date_range("2026-01-01", periods=2_000)).dt.date,
    "the same long text": pd.Series(["x" * 5_000] * 2_000),
    "text": pd.Series([f"text {number}" for number in range(1_999)] + [None]),
    "codes": pd.Series(["a", "b"] * 1_000, dtype="category"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_a_parquet_file_is_read_in_parts_as_in_one(kind: str) -> None:
    content = parquet(pd.DataFrame({"a": KINDS[kind], "n": range(2_000)}), row_group_size=700)
    numbers = ["a", "n"] if kind.startswith(("whole", "huge", "half")) else ["n"]
    expected = reading.read(content, "x.parquet", Reading(), numbers)
    parts = list(reading.stream_fast(chunked(content), Reading(), numbers, 4_000))
    assert len(parts) > 3
    found = pd.concat(parts, ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=kind != "yes or no")
    assert len({str(part["a"].dtype) for part in parts}) == 1 or kind == "yes or no"


@pytest.mark.parametrize("value", [True, pd.Timestamp("2026-01-01").time()])
def test_a_column_that_is_empty_at_first_keeps_its_type(
    churn: Dataset, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.read_csv(io.BytesIO(CONTENT))
    frame["late"] = pd.Series([None] * 5_990 + [value] * 10, dtype=object)
    dataset = changed(churn, unknown_columns="keep")
    expected, _ = whole(dataset, parquet(frame))
    found, _ = in_parts(dataset, parquet(frame), monkeypatch)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12)


def test_texts_that_repeat_take_no_more_memory_than_a_piece() -> None:
    texts = pd.Series([f"{number % 900:04}" + "x" * 1_000 for number in range(20_000)])
    size = 2**19
    content = parquet(pd.DataFrame({"a": texts}), row_group_size=20_000)
    parts = list(reading.stream_fast(chunked(content), Reading(), [], size))
    assert max(part["a"].str.len().sum() for part in parts) < 4 * size


def test_a_damaged_parquet_file_is_rejected_in_parts_too() -> None:
    content = parquet(pd.DataFrame({"a": range(2_000)}), row_group_size=700)
    for damaged in (content[:-9], content[:2_000] + b"?" * 200 + content[2_200:], b"PAR1"):
        with pytest.raises(RejectedError, match="Parquet"):
            list(reading.stream_fast(chunked(damaged), Reading(), ["a"], 4_000))


@pytest.mark.parametrize(
    ("beginning", "name", "how", "can"),
    [
        (b"a,b\n", "x.csv", Reading(), True),
        (b"a;b\n", "x.txt", Reading(encoding="latin-1"), True),
        (b"\x1f\x8b\x08", "x.csv.gz", Reading(), False),
        (b"PAR1", "x.csv", Reading(), True),
        (b"PAR1", "x", Reading(format="csv"), False),
        (b"\xff\xfea\0", "x.csv", Reading(), False),
        (b"a,b\n", "x.csv", Reading(encoding="utf-16-le"), False),
        (b'{"a": 1}\n', "x.jsonl", Reading(), False),
    ],
)
def test_what_can_be_read_in_parts(beginning: bytes, name: str, how: Reading, can: bool) -> None:
    assert reading.can_be_streamed(beginning, name, how) is can


def test_a_certificate_that_is_not_accepted_is_no_fault_of_the_object(
    churn: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise UntrustedError("its certificate is not accepted: certificate has expired")

    store = MemoryStore()
    monkeypatch.setattr(store, "open", refused)
    done = Preparation(store, churn, "run").prepare("churn/a.csv")  # type: ignore[arg-type]
    assert done.result == "interrupted"
    assert "it is tried again" in done.message


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, ""),
        ({"split": {"test_size": 0.2}}, "split"),
        ({"output": "csv"}, "output: csv"),
        ({"fit": "reference"}, "fit: reference"),
        ({"steps": [{"impute": {"Age": "knn"}}]}, "knn"),
        ({"steps": [{"encode": {"Geography": "dict"}}]}, "dict"),
    ],
)
def test_why_a_dataset_is_prepared_whole(churn: Dataset, fields: dict[str, Any], reason: str) -> None:
    told = why_not(changed(churn, **fields), fitted=False)
    assert reason in told
    assert bool(told) is bool(reason)


def test_a_reference_is_applied_where_drift_does_not_matter(churn: Dataset) -> None:
    assert not why_not(changed(churn, fit="reference", drift={"then": "ignore"}), fitted=True)
    assert "drift" in why_not(changed(churn, fit="reference", drift={"then": "reject"}), fitted=True)
