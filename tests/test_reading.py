"""Raw files in every format: right, or rejected with a reason their owner understands; never anything else."""

import datetime
import decimal
import gzip
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dropflow.errors import RejectedError, SettingsError
from dropflow.formats import Reading
from dropflow.samples import churn_csv
from flows.reading import read, read_csv, stream_fast
from flows.reading.compression import expand

SMALL = Reading(max_bytes="4MB")


def table(content: bytes | str, name: str = "raw.csv", **options: Any) -> pd.DataFrame:
    return read(content.encode() if isinstance(content, str) else content, name, Reading(**options), ["n"])


def rejected(content: bytes | str, told: str, name: str = "raw.csv", **options: Any) -> str:
    with pytest.raises(RejectedError) as raised:
        table(content, name, **options)
    assert told in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400
    return str(raised.value)


def zipped(*members: tuple[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **{"compression": zipfile.ZIP_DEFLATED, **options}) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def parquet(columns: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), buffer, **options)
    return buffer.getvalue()


def workbook(*sheets: list[list[Any]], titles: tuple[str, ...] = ()) -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(titles[number] if titles else f"sheet {number}")
        for row in rows:
            sheet.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


# The section in the dataset's file


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("2 GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("7", 7), ("4k", 4000), (9, 9)],
)
def test_sizes_are_numbers_or_text(text: str | int, size: int) -> None:
    assert Reading.model_validate({"max_bytes": text}).max_bytes == size


@pytest.mark.parametrize(
    "options",
    [
        {"max_bytes": "much"},
        {"max_bytes": True},
        {"max_bytes": 0},
        {"max_bytes": "-5MB"},
        {"delimiter": ";;"},
        {"delimiter": "§"},
        {"delimiter": "a"},
        {"delimiter": '"'},
        {"encoding": "latin-9000"},
        {"encoding": "base64"},
        {"encoding": "idna"},
        {"encoding": "utf\0-8"},
        {"decimal": ";"},
        {"thousands": "."},
        {"thousands": "ab"},
        {"thousands": "1"},
        {"decimal": ",", "thousands": ","},
        {"format": "xml"},
        {"sheet": -1},
        {"sheet": True},
        {"sheet": ""},
        {"header": 3},
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Reading.model_validate(options)


def test_an_encoding_has_one_name() -> None:
    assert Reading(encoding="UTF8") == Reading()
    assert Reading(encoding="Latin-1").encoding == Reading(encoding="iso-8859-1").encoding


# CSV


def read_small(text: str) -> pd.DataFrame:
    return read_csv(text.encode(), ["n"])


def test_text_stays_text() -> None:
    frame = read_small("n,c,t\n1,007,NA\nNA,0,Null\n,,\n")
    assert frame["c"].tolist()[:2] == ["007", "0"]
    assert frame["t"].tolist()[:2] == ["NA", "Null"]
    assert frame["t"].isna().tolist() == [False, False, True]
    assert frame["n"].isna().tolist() == [False, True, True]


@pytest.mark.parametrize("blank", ["\n\r\n", "  \n\t\n", "\ufeff\n", "\ufeff  \r\n"])
def test_blank_lines_before_the_header_change_no_type(blank: str) -> None:
    assert read_small(f"{blank}c,n\n007,1\n")["c"].tolist() == ["007"]


def test_a_byte_order_mark_and_windows_line_ends_are_read() -> None:
    frame = read_small("\ufeffn,c,t\r\n1,a,x\r\n")
    assert list(frame.columns) == ["n", "c", "t"]
    assert frame["t"].tolist() == ["x"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("n,c,t\n1,a,x,9\n2,b,y,9\n", "more values in its rows than names"),
        ("n,c,t\n1,a,x\n2,b,y,9\n", "is no readable CSV"),
        ('n,c,t\n1,"a,x\n', "is no readable CSV"),
        ("n,c,n\n1,a,2\n", "columns of the same name: n"),
        ("n,c,t\n\0,a,x\n", "NUL byte in line 2"),
        ("\n\n", "is blank"),
        ("\n\nn,n\n1,2\n", "columns of the same name"),
        ('"' + "x" * 200_000, "is no readable CSV"),
        ("n,,\n1,2,3\n", "2 columns without a name"),
        ("Unnamed: 1,\n1,2\n", "columns of the same name: Unnamed: 1"),
        ("n,c\n", "has a header but no rows"),
        ("", "is empty (0 bytes)"),
        ("\ufeff", "is blank"),
    ],
)
def test_what_is_no_table_is_rejected(text: str, told: str) -> None:
    with pytest.raises(RejectedError, match=told.replace("(", r"\(").replace(")", r"\)")):
        read_small(text)
    rejected(text, told)


def test_a_column_without_a_name_is_text_too() -> None:
    frame = table(",n\n007,1\n")
    assert list(frame.columns) == ["Unnamed: 0", "n"]
    assert frame["Unnamed: 0"].tolist() == ["007"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n,c\n1,2\n", ["n", "c"]),
        ("n;c\n1;2\n", ["n", "c"]),
        ("n\tc\n1\t2\n", ["n", "c"]),
        ("n|c\n1|2\n", ["n", "c"]),
        ("a\n1\n", ["a"]),
        ('"n;x",c\n1,2\n', ["n;x", "c"]),
        ('"a\nb";c\n1;2\n', ["a\nb", "c"]),
        ("last, first;n;t\nBob, X;1;a\n", ["last, first", "n", "t"]),
        ("n,c|d\n1,a|b|c\n", ["n", "c|d"]),
        ('n;c\n1;"a;b"\n\n2;c\n', ["n", "c"]),
        ("n;c\n1\n", ["n", "c"]),
        ("a;b,c;d\n1;2,3;4\n", ["a", "b,c", "d"]),
        ("a,b;c,d\n1;2,3;4\n", ["a", "b;c", "d"]),
    ],
)
def test_the_delimiter_is_found(text: str, names: list[str]) -> None:
    assert list(table(text).columns) == names


def test_a_declared_delimiter_is_kept_to() -> None:
    assert list(table("a;b,c;d\n1;2,3;4\n", delimiter=",").columns) == ["a;b", "c;d"]
    assert list(table("n c\n1 2\n", delimiter=" ").columns) == ["n", "c"]
    rejected("n;c\n1;2;3\n4;5;6\n", "check the semicolons")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-32-be"])
def test_a_byte_order_mark_is_believed_whatever_is_declared(encoding: str) -> None:
    text = "n;t\n1;größe €\n"
    content = (text if encoding.endswith(("sig", "16", "32")) else "\ufeff" + text).encode(encoding)
    assert table(content, encoding="cp1252")["t"].tolist() == ["größe €"]


def test_declared_encodings() -> None:
    assert table("n,t\n1,é\n".encode("latin-1"), encoding="latin-1")["t"].tolist() == ["é"]
    assert table("n,t\n1,表\n".encode("shift_jis"), encoding="shift_jis")["t"].tolist() == ["表"]
    reason = rejected("n,t\n1,x\n2,é\n".encode("latin-1"), "is not UTF-8 text: byte 0xe9 in line 3")
    assert "read: {encoding: latin-1}" in reason
    rejected(b"\xef\xbb\xbfn,t\n1,\xe9\n", "byte 0xe9 in line 2")
    rejected("n,t\n1,表\n".encode() + b"\xff", "is not ascii text: byte 0xe8 in line 2", encoding="ascii")
    rejected("n,t\n1,x\n".encode("utf-16") + b"\0", "is not utf-16 text")


def test_numbers_of_other_countries() -> None:
    german = {"decimal": ",", "thousands": "."}
    assert table("n;t\n1.234,5;007\n-7;1,5\n;x\n1e3;y\n,5;z\n", **german)["n"].tolist()[:2] == [1234.5, -7]
    assert table("n;t\n1,5;a\n", decimal=",")["n"].tolist() == [1.5]
    assert table("n\n1,5\n", decimal=",")["n"].tolist() == [1.5]
    assert table('n,t\n"1,5",x\n', decimal=",")["n"].tolist() == [1.5]
    assert table("n;t\n1 234;x\n", thousands=" ")["n"].tolist() == [1234]
    assert table("n;t\n12,34,567.5;x\n", thousands=",")["n"].tolist() == [1234567.5]
    assert table("n;t\n1;007\n1,5;b\n", **german)["t"].tolist() == ["007", "b"]


@pytest.mark.parametrize("value", ["1.5", "1.23.4", "12.34", "1,5,5", "x", "0x1F", "1_000", "nan,5"])
def test_a_number_that_may_mean_two_things_is_rejected(value: str) -> None:
    rejected(f"n;t\n1,5;a\n{value};b\n", "in data row 2 is no number written", decimal=",", thousands=".")


def test_big_cells_line_ends_in_quotes_and_extreme_numbers() -> None:
    big = "x" * 50_000_000
    assert table(f"n,t\n1,{big}\n")["t"].tolist() == [big]
    assert table('n,t\r\n1,"a\r\nb"\r\n')["t"].tolist() == ["a\r\nb"]
    assert table("n,t\n1e308,x\ninf,y\nNaN,z\n")["n"].tolist()[:2] == [1e308, float("inf")]


def test_many_columns() -> None:
    names = [f"c{number}" for number in range(10_000)]
    assert table(",".join(names) + "\n" + ",".join("7" * 10_000) + "\n").shape == (1, 10_000)
    long = [f"{'c' * 300}{number}" for number in range(10_000)]
    frame = table(",".join(long) + "\n" + ",".join(["007"] * 10_000) + "\n")
    assert frame.iloc[0, -1] == "007"
    rejected(",".join(map(str, range(20_000))) + "\n1\n", "20,000 columns")


def test_short_rows_cannot_fill_the_memory() -> None:
    names = ",".join(map(str, range(5_000)))
    rejected(names + "\n" + "1\n" * 1_000_000, "rows that lack most", max_bytes="100MB")
    assert len(table(names + "\n" + "1\n" * 10)) == 10


def test_plain_csv_is_read_as_pandas_reads_it() -> None:
    content = churn_csv()
    header = content.split(b"\n")[0].decode().split(",")
    numbers = [name for name in header if name not in ("Surname", "Geography", "Gender")]
    plain = pd.read_csv(io.BytesIO(content), dtype=dict.fromkeys(set(header) - set(numbers), str))
    pd.testing.assert_frame_equal(read(content, "churn/2026.csv", Reading(), numbers), plain)


# Formats and compression


def test_bytes_tell_the_format_before_the_ending_does() -> None:
    columns = {"n": [1, 2], "t": ["a", "b"]}
    assert table(parquet(columns), "wrong.csv").shape == (2, 2)
    assert table(workbook([["n", "t"], [1, "a"]]), "wrong.csv").shape == (1, 2)
    assert table('{"n": 1}\n', "a.NDJSON").shape == (1, 1)
    assert table(gzip.compress(b'{"n": 1}\n'), "a.jsonl.gz").shape == (1, 1)
    assert table(zipped(("in.jsonl", b'{"n": 1}\n')), "a.zip").shape == (1, 1)
    assert table('{"n": 1}\n', "a.csv", format="jsonl").shape == (1, 1)
    rejected("n\n1\n", "is no Parquet file", "a.parquet")
    rejected("n\n1\n", "is no Excel workbook", "a.xlsx")
    rejected(parquet(columns), "is a Parquet file, not CSV text", format="csv")


@pytest.mark.parametrize(
    ("magic", "told"),
    [
        (b"\x89PNG\r\n", "a PNG image, not CSV text"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook"),
        (b"\xfd7zXZ\0", "an xz archive"),
        (b"PARE1234PARE", "encrypted"),
    ],
)
def test_other_formats_are_named(magic: bytes, told: str) -> None:
    rejected(magic + b"rest", told)


def compressed(codec: str, content: bytes) -> bytes:
    if codec == "zip":
        return zipped(("data.csv", content))
    return bytes(pa.compress(content, codec, asbytes=True))


@pytest.mark.parametrize("codec", ["gzip", "zstd", "zip"])
def test_compressed_files(codec: str) -> None:
    plain = churn_csv(2000)
    content = compressed(codec, plain)
    pd.testing.assert_frame_equal(table(content, "x"), table(plain))
    for cut in (5, len(content) // 2, len(content) - 3):
        rejected(content[:cut], "damaged")
    rejected(compressed(codec, b""), "is empty (0 bytes) once decompressed")
    rejected(compressed(codec, content), "compressed twice")
    rejected(content, "more than 5,000 bytes once decompressed", max_bytes=5_000)
    broken = bytearray(content)
    broken[len(content) // 2] ^= 255
    rejected(bytes(broken), "")


def test_several_gzip_members_are_one_file() -> None:
    assert len(table(gzip.compress(b"n\n1\n") + gzip.compress(b"2\n"))) == 2


def test_a_zip_archive_holds_one_file() -> None:
    assert len(table(zipped(("d/", b""), ("d/a.csv", b"n\n1\n"), ("__MACOSX/d/._a.csv", b"junk")))) == 1
    rejected(zipped(("a.csv", b"n\n1\n"), ("b.csv", b"n\n1\n")), "2 files (a.csv, b.csv)")
    rejected(zipped(), "0 files")
    rejected(zipped(("a.csv", b"n\n1\n"), compression=zipfile.ZIP_LZMA), "unusual way")
    secret = bytearray(zipped(("a.csv", b"n\n1\n")))
    secret[6] |= 1
    secret[secret.index(b"PK\x01\x02") + 8] |= 1
    rejected(bytes(secret), "password")


def test_a_zip_that_lies_about_its_size_is_rejected() -> None:
    content = bytearray(zipped(("a.csv", b"n\n" + b"1\n" * 1_000_000)))
    for start in (22, content.index(b"PK\x01\x02") + 24):
        content[start : start + 4] = (10).to_bytes(4, "little")
    rejected(bytes(content), "damaged ZIP archive")


def test_what_expands_beyond_the_usual_is_still_read() -> None:
    plain = b"n,t\n" + b"1,a\n" * 20_000_000
    assert len(plain) > 64 * 2**20
    assert expand(gzip.compress(plain, 1), Reading())[0] == plain


def bomb(chunk: bytes, times: int) -> bytes:
    """A gzip file of many members, which is as good as a long one and sooner made."""
    return gzip.compress(chunk) * times


MEASURED = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30,) * 2)
from dropflow.errors import RejectedError
from dropflow.formats import Reading
from flows.reading import read, stream_fast
content = open(sys.argv[1], "rb").read()
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
try:
    %s
except RejectedError as error:
    print(error)
print(time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
WHOLE = MEASURED % 'read(content, "x.csv", Reading(max_bytes=sys.argv[2]), [])'
IN_PIECES = (
    MEASURED % "all(len(x) for x in stream_fast([content], Reading(max_bytes=sys.argv[2]), [], 2**24))"
)


def in_a_process(path: Path, limit: str, program: str = WHOLE) -> list[str]:
    """Why the file is rejected there; and the seconds, and the KiB, that this took."""
    command = [sys.executable, "-c", program, str(path), limit]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120
    ).stdout.splitlines()


@pytest.mark.parametrize(("chunk", "limit"), [(b"\0", "4GiB"), (b"a,b\n", "1GB")])
def test_a_bomb_takes_neither_time_nor_memory(tmp_path: Any, chunk: bytes, limit: str) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(bomb(chunk * (2**24 // len(chunk)), 640 if chunk == b"\0" else 80))
    reason, measured = in_a_process(path, limit)
    seconds, kib = measured.split()
    assert "once decompressed" in reason
    assert float(seconds) < 30
    assert int(kib) < 250_000


# Parquet


def test_parquet_keeps_types() -> None:
    day = datetime.date(2026, 11, 5)
    frame = table(
        parquet(
            {
                "n": [1, None],
                "whole": [1, 2],
                "big": pa.array([2**60 + 1, None]),
                "unsigned": pa.array([2**64 - 1, None], pa.uint64()),
                "code": pa.array(["007", None]).dictionary_encode(),
                "bool": [True, False],
                "day": pa.array([day, None]),
                "at": pa.array([datetime.datetime(2026, 11, 5, 1), None], pa.timestamp("us", "UTC")),
                "price": pa.array([decimal.Decimal("1.25"), None]),
                "bytes": pa.array([b"text", None]),
                "raw": pa.array([b"\xff", None]),
                "nothing": pa.nulls(2),
                "far": pa.array([datetime.date(9999, 1, 1), None]),
            }
        ),
    )
    assert frame["n"].dtype == "float64"
    assert frame["whole"].dtype == "int64"
    assert frame["big"].tolist()[0] == 2**60 + 1
    assert frame["unsigned"].tolist()[0] == 2**64 - 1
    assert frame["code"].dtype == "str"
    assert frame["code"].tolist()[0] == "007"
    assert frame["bool"].dtype == bool
    assert frame["day"].tolist()[0] == pd.Timestamp(day)
    assert frame["at"].tolist()[0] == pd.Timestamp("2026-11-05T01:00Z")
    assert frame["price"].tolist()[0] == 1.25
    assert frame["bytes"].tolist()[0] == "text"
    assert frame["raw"].tolist()[0] == b"\xff"
    assert frame["far"].tolist()[0].year == 9999
    assert frame["nothing"].isna().all()
    assert frame.isna().iloc[1].sum() == 11


def test_an_index_that_pandas_wrote_is_a_column() -> None:
    buffer = io.BytesIO()
    pd.DataFrame({"n": [1.0]}, index=pd.Index(["a"], name="who")).to_parquet(buffer)
    assert list(table(buffer.getvalue()).columns) == ["n", "who"]


def test_a_date_is_no_number() -> None:
    frame = table(parquet({"n": [datetime.date(2026, 11, 5), None]}))
    assert frame["n"].tolist()[0].startswith("2026-11-05")
    assert table(parquet({"n": ["5", "NA"]}))["n"].isna().tolist() == [False, True]


@pytest.mark.parametrize("value", [[1], {"a": 1}, [{"a": 1}]])
def test_nested_columns_are_rejected_by_name(value: Any) -> None:
    rejected(parquet({"n": [1], "deep": [value]}), "column deep is nested")


def test_parquet_that_is_no_table() -> None:
    rejected(parquet({"n": pa.array([], pa.int64())}), "no rows")
    rejected(parquet(pa.Table.from_arrays([pa.array([1])] * 2, ["n", "n"])), "same name: n")
    rejected(parquet({"": [1]}), "without a name")
    rejected(parquet({"n": [1]})[:-10], "no readable Parquet file")
    invalid = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    )
    rejected(parquet({"t": invalid}), "no readable Parquet file")


def test_parquet_that_expands_is_rejected_before_it_does() -> None:
    rejected(parquet({"n": list(range(100_000))}), "more than 50,000 bytes", max_bytes=50_000)
    runs = parquet({"n": pa.array([7] * 5_000_000)})
    assert len(runs) < 30_000
    rejected(runs, "more than 1,000,000 bytes", max_bytes=1_000_000)
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), ["x" * 100_000])
    content = parquet({"t": texts})
    assert len(content) < 200_000
    started = time.monotonic()
    rejected(content, "more than", max_bytes="1GB")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("program", [WHOLE, IN_PIECES], ids=["whole", "in pieces"])
@pytest.mark.parametrize("short", [0, 5_000])
def test_a_small_parquet_of_much_text_is_rejected_before_it_takes_memory(
    tmp_path: Path, program: str, short: int
) -> None:
    """A text of 20 MB in a dictionary, for each of 100,000 rows; the first rows may have another."""
    codes = pa.array([1] * short + [0] * 100_000, pa.int32())
    texts = pa.DictionaryArray.from_arrays(codes, ["x" * 20_000_000, "y"])
    path = tmp_path / "table"
    # Without pyarrow's own schema nothing says that the column is one of codes.
    path.write_bytes(parquet({"n": pa.nulls(len(codes), pa.int8()), "t": texts}, store_schema=False))
    assert path.stat().st_size < 2_000_000
    reason, measured = in_a_process(path, "200MB", program)
    assert re.match(r"its table, mostly column t, holds [\d,]+ bytes, as a text counts in every cell", reason)
    assert int(measured.split()[1]) < 250_000


def test_a_dictionary_counts_once_for_each_row_and_not_for_each_piece() -> None:
    codes = pa.array([number % 2_000 for number in range(200_000)], pa.int32())
    texts = [f"{number:0500}" for number in range(2_000)]
    content = parquet({"t": pa.DictionaryArray.from_arrays(codes, texts)}, store_schema=False)
    pieces = stream_fast([content], Reading(max_bytes="110MB"), [], 2**20)
    assert sum(map(len, pieces)) == 200_000


def test_encrypted_columns_are_told() -> None:
    rejected(b"PARE" + b"\0" * 50 + b"PARE", "encrypted")


# JSON lines


def test_json_lines_keep_types() -> None:
    frame = table(
        '{"n": 1, "code": "007", "day": "2026-11-05", "big": 1152921504606846977, "huge": 36893488147419103232}\n'
        "\r\n"
        '{"code": "8", "yes": true, "late": 1.5, "mixed": "a", "n": null}\r\n'
        '{"mixed": 5, "yes": false, "big": 1, "n": 2.5}',
        "a.jsonl",
    )
    assert list(frame.columns) == ["n", "code", "day", "big", "huge", "yes", "late", "mixed"]
    assert frame["code"].tolist()[:2] == ["007", "8"]
    assert frame["day"].tolist()[0] == "2026-11-05"
    assert frame["big"].tolist()[0] == 2**60 + 1
    assert frame["huge"].tolist()[0] == str(2**65)
    assert frame["mixed"].tolist()[1:] == ["a", "5"]
    assert frame["yes"].tolist() == [None, True, False]
    assert frame["n"].tolist()[2] == 2.5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"n": 1}\n{"n": \n', "no readable JSON in line 2"),
        ('{"n": 1}\n\n[1]\n', "no JSON object in line 3 but a list"),
        ('[\n{"n": 1}\n]', "in line 1"),
        ("null\n", "in line 1 but null"),
        ('{"n": 1, "n": 2}\n', "the same name twice"),
        ('{"t": 1}\n{"t": {"a": 1}}\n', "column t holds lists or objects (first in data row 2)"),
        ('{"n": [1]}\n', "column n holds lists"),
        ('{"": 1}\n', "without a name"),
        ("{}\n{}\n", "no rows"),
        ('{"t": "\\ud800"}\n', "half a character"),
        ('{"\\ud800": 1}\n', "half a character"),
        ('{"n": ' + "[" * 100_000 + "\n", "line 1"),
        ('{"n": 36893488147419103232}\n', "too large to be kept exactly"),
        ('{"n": 1152921504606846977}\n{"n": 1.5}\n', "too large to be kept exactly"),
        ('{"n": ' + "9" * 5000 + "}\n", "line 1"),
        ("".join(json.dumps({f"c{i}": 1}) + "\n" for i in range(20_000)), "16,384 columns"),
    ],
)
def test_json_that_is_no_table_is_rejected(text: str, told: str) -> None:
    rejected(text, told, "a.jsonl")


def test_json_numbers_at_the_edge() -> None:
    frame = table('{"n": NaN}\n{"n": 1e308}\n{"n": 1e999}\n{"n": "NA"}\n', "a.jsonl")
    assert frame["n"].isna().tolist() == [True, False, False, True]
    assert frame["n"].tolist()[1:3] == [1e308, float("inf")]
    assert table('{"n": "four"}\n{"n": 4}\n', "a.jsonl")["n"].tolist() == ["four", "4"]
    assert table('{"n": true}\n', "a.jsonl")["n"].tolist() == ["True"]
    assert table('{"t": "a\\u0000b\\u2028"}\n', "a.jsonl")["t"].tolist() == ["a\0b\u2028"]


# Excel


def test_excel() -> None:
    content = workbook(
        [
            [],
            [None, "n", "code", "day", "yes", "mixed"],
            [1, 1.5, "007", datetime.datetime(2026, 11, 5), True, 1],
            [],
            [2, "NA", None, None, False, "b"],
            [3, 7, "", None, False],
        ],
        [["n"], [5]],
        titles=("first", "Zweites"),
    )
    frame = table(content, "a.xlsx")
    assert list(frame.columns) == ["Unnamed: 0", "n", "code", "day", "yes", "mixed"]
    assert frame["n"].isna().tolist() == [False, True, False]
    assert frame["code"].tolist()[0] == "007"
    assert frame["code"].isna().tolist() == [False, True, True]
    assert frame["day"].tolist()[0] == pd.Timestamp("2026-11-05")
    assert frame["yes"].dtype == bool
    assert frame["mixed"].tolist()[:2] == ["1", "b"]
    assert table(content, sheet="Zweites")["n"].tolist() == [5]
    assert table(content, sheet=1)["n"].tolist() == [5]
    assert table(gzip.compress(content))["n"].isna().sum() == 1
    rejected(content, "no sheet third; it has first, Zweites", sheet="third")
    rejected(content, "no sheet 2 (from 0)", sheet=2)
    rejected(content, "Excel workbook, not CSV", format="csv")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "is blank"),
        ([["n", "t"]], "no rows"),
        ([["n", "n"], [1, 2]], "same name: n"),
        ([["n", None, None, "t"], [1, 2]], "2 columns without a name"),
        ([["n"], [1], [1, 2]], "values right of its header's 1 columns in row 3"),
    ],
)
def test_workbooks_that_are_no_table(rows: list[list[Any]], told: str) -> None:
    rejected(workbook(rows), told)


def test_formulas_are_read_as_they_were_last_reckoned() -> None:
    # openpyxl writes no value for a formula: nobody has reckoned it.
    assert table(workbook([["n", "t"], ["=1+1", "x"]]))["n"].isna().all()


def edited(content: bytes, part: str, change: Callable[[bytes], bytes]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return zipped(
            *[(n, change(archive.read(n)) if n == part else archive.read(n)) for n in archive.namelist()]
        )


SHEET = "xl/worksheets/sheet1.xml"


def test_workbooks_that_harm() -> None:
    good = workbook([["n"], [1]])
    rejected(edited(good, SHEET, lambda x: x + b" " * 50_000_000), "more than", max_bytes="10MB")
    far = edited(good, SHEET, lambda x: x.replace(b'r="2"', b'r="999999999999"'))
    rejected(far, "more than Excel's 1,048,576 rows")
    laughs = b'<!DOCTYPE x [<!ENTITY a "' + b"x" * 10_000 + b'">'
    laughs += b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
    entity = edited(good, SHEET, lambda x: laughs + b"]>" + x.replace(b"<v>1<", b"<v>&j;<"))
    rejected(entity, "no readable Excel workbook")
    rejected(zipped(("[Content_Types].xml", b"<Types/>")), "no readable Excel workbook")
    rejected(good[: len(good) // 2], "damaged")
    small = edited(
        workbook([["n", "t"], [1, "a"]]), SHEET, lambda x: re.sub(rb'ref="A1[^"]*"', b'ref="A1"', x)
    )
    assert table(small).shape == (1, 2)


TYPES = "[Content_Types].xml"


def with_shared_text(text: bytes, rows: int) -> bytes:
    """A workbook that has `text` once, and `rows` rows in which column t holds it."""
    plain = workbook([["t", "n"], *(["MARK", number] for number in range(rows))], titles=("Data",))
    shared = edited(
        plain, SHEET, lambda x: x.replace(b't="inlineStr"><is><t>MARK</t></is>', b't="s"><v>0</v>')
    )
    main = b"http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    kind = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    named = b'<Override PartName="/xl/sharedStrings.xml" ContentType="%s"/></Types>' % kind
    shared = edited(shared, TYPES, lambda x: x.replace(b"</Types>", named))
    buffer = io.BytesIO(shared)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", b'<sst xmlns="%s"><si><t>%s</t></si></sst>' % (main, text))
    return buffer.getvalue()


def test_a_text_that_stands_in_many_cells_counts_in_each() -> None:
    content = with_shared_text("ü".encode() * 1000, 50)
    assert table(content, max_bytes=101_000)["t"].str.len().sum() == 50_000
    told = rejected(content, "sheet Data, mostly column t, holds ", max_bytes=99_000)
    assert "holds 100,002 bytes" in told
    assert "more than the 99,000 that may be read; split it, or raise max_bytes" in told
    content = edited(
        with_shared_text(b"x" * 30_000, 1),
        SHEET,
        lambda x: re.sub(rb't="inlineStr"><is><t>[tn]</t></is>', b't="s"><v>0</v>', x),
    )
    rejected(content, "sheet Data, mostly column 1, holds 60,000 bytes", max_bytes=59_000)


def test_a_small_workbook_of_much_text_is_rejected_before_it_takes_memory(tmp_path: Path) -> None:
    path = tmp_path / "book"
    path.write_bytes(with_shared_text(b"x" * 20_000_000, 100))
    assert path.stat().st_size < 50_000
    reason, measured = in_a_process(path, "200MB")
    assert reason.startswith("sheet Data, mostly column t, holds 200,000,002 bytes")
    assert int(measured.split()[1]) < 200_000


def test_without_openpyxl_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = workbook([["n"], [1]])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(SettingsError, match=r"pip install dropflow\[excel\]"):
        table(content)


# Whatever the bytes


def valid_files() -> list[tuple[str, bytes]]:
    plain = b'n,c,t\n1,a,x\n2.5,,"y,z"\r\nNA,b,\xc3\xa9\n'
    columns = {
        "n": pa.array([1, None, 3]),
        "c": pa.array(["a", "b", "a"]).dictionary_encode(),
        "t": pa.array([datetime.datetime(2026, 1, 1)] * 3),
        "d": pa.array([decimal.Decimal("1.5")] * 3),
    }
    files = [
        ("a.csv", plain),
        ("a.csv", plain.decode().encode("utf-16")),
        ("a.jsonl", b'{"n": 1, "t": "x"}\n{"n": 2.5, "t": null, "u": true}\n'),
        ("a.parquet", parquet(columns)),
        ("a.parquet", parquet(columns, compression="zstd", use_dictionary=False)),
        ("a.gz", gzip.compress(plain)),
        ("a.zst", compressed("zstd", plain)),
        ("a.zip", zipped(("a.csv", plain))),
        ("a.zip", zipped(("a.csv", plain), compression=zipfile.ZIP_STORED)),
    ]
    try:
        import openpyxl  # noqa: F401
    except ImportError:
        return files
    book = workbook([["n", "t", "d"], [1, "x", datetime.datetime(2026, 1, 1)], [True, None, 2.5]])
    with zipfile.ZipFile(io.BytesIO(book)) as archive:
        stored = [(name, archive.read(name)) for name in archive.namelist()]
    # Stored, so that a mutation reaches the XML and not the checksum alone.
    return [*files, ("a.xlsx", book), ("a.xlsx", zipped(*stored, compression=zipfile.ZIP_STORED))]


FILES = valid_files()

options = st.builds(
    Reading,
    format=st.sampled_from(["auto", "auto", "csv", "jsonl", "parquet", "excel"]),
    delimiter=st.sampled_from(["auto", ",", ";", "\t", " ", "."]),
    encoding=st.sampled_from(
        ["utf-8", "latin-1", "utf-16", "utf-7", "shift_jis", "hz", "ascii", "utf-32-le"]
    ),
    decimal=st.sampled_from([".", ","]),
    thousands=st.sampled_from([None, "'", "\u202f"]),
    max_bytes=st.just(2**24),
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    name, content = draw(st.sampled_from(FILES))
    changed = bytearray(content)
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, max(0, len(changed) - 1)))
        kind = draw(st.sampled_from(["set", "flip", "cut", "insert", "drop", "copy"]))
        if kind == "set":
            changed[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "flip" and changed:
            changed[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del changed[place:]
        elif kind == "insert":
            changed[place:place] = draw(st.binary(max_size=20))
        elif kind == "drop":
            del changed[place : place + draw(st.integers(1, 30))]
        else:
            changed[place:place] = changed[: draw(st.integers(0, 200))]
    return name, bytes(changed)


def survive(name: str, content: bytes, how: Reading) -> None:
    try:
        frame = read(content, name, how, ["n"])
    except RejectedError as error:
        assert str(error).isprintable()  # noqa: PT017
        assert len(str(error)) < 600  # noqa: PT017
        return
    assert len(frame) > 0
    assert frame.columns.is_unique
    # What was read can be gone through and written, as the steps will.
    frame.isna().sum()
    frame.to_parquet(io.BytesIO(), index=False)


@pytest.mark.parametrize("most", [2**14, 2**24])
def test_a_damaged_column_does_not_end_the_process(most: int) -> None:
    """What fuzzing has found: pyarrow's own look at the column aborts."""
    content = (Path(__file__).parent / "data" / "damaged_column.parquet").read_bytes()
    with pytest.raises(RejectedError, match="no readable Parquet file"):
        read(content, "a.parquet", Reading(max_bytes=most), ["n"])


fuzzing = hypothesis_settings(
    max_examples=int(os.environ.get("DROPFLOW_FUZZ", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(mutated(), options)
@fuzzing
def test_damaged_files_are_read_or_rejected(file: tuple[str, bytes], how: Reading) -> None:
    survive(*file, how)


@given(mutated())
@fuzzing
def test_damaged_files_are_read_or_rejected_as_what_they_are(file: tuple[str, bytes]) -> None:
    survive(*file, SMALL)


@given(
    st.sampled_from(["a.csv", "a.jsonl", "a.parquet", "a.xlsx", ""]),
    st.sampled_from(
        [
            b"",
            b"PAR1",
            b"PK\x03\x04",
            b"\x1f\x8b\x08\0",
            b"\x28\xb5\x2f\xfd",
            b"\xff\xfe",
            b'{"n": ',
            b"n,t\n",
        ]
    ),
    st.binary(max_size=300),
    options,
)
@fuzzing
def test_any_bytes_are_read_or_rejected(name: str, start: bytes, rest: bytes, how: Reading) -> None:
    survive(name, start + rest, how)


@given(st.text(alphabet="n,t;\"\r\n\t |0123456789.eaé \\{}:[]'", max_size=120), options)
@fuzzing
def test_any_text_is_read_or_rejected(text: str, how: Reading) -> None:
    survive("a.csv", text.encode(how.encoding, "replace"), how)
