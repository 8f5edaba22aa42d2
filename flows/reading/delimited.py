"""CSV and its relatives to a DataFrame."""

import csv
import io
import itertools
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd

from dropflow.errors import RejectedError
from dropflow.formats import Reading
from dropflow.objects import printable
from flows.reading.columns import CELL_BYTES, NO_NUMBER, named_columns
from flows.reading.signatures import NO_TEXT, WIDE
from flows.reading.text import utf8

_SNIFFED_ROWS = 20
MOST_CELLS = 2**22
"""Of one piece of a stream: short rows are filled up."""


def read(content: bytes, reading: Reading, numbers: Collection[str]) -> pd.DataFrame:
    content = utf8(content, reading, "CSV")
    delimiter = _delimiter(content, reading)
    with _errors(delimiter):
        header = _header(content, delimiter)
        _check_padding(content, len(header), reading)
        frame = pd.read_csv(io.BytesIO(content), **_options(header, delimiter, reading, numbers))
    return _checked(frame, header, reading, numbers)


def can_be_streamed(beginning: bytes, reading: Reading) -> bool:
    """Whether `stream` can read a file that begins so: its header is there, and characters are bytes."""
    wide = reading.encoding.startswith(("utf-16", "utf-32", "utf-7")) or beginning.startswith(WIDE)
    return not wide and not beginning.startswith(NO_TEXT) and any(end in beginning for end in b"\r\n")


def stream(
    chunks: Iterable[bytes], reading: Reading, numbers: Collection[str], size: int
) -> Iterator[pd.DataFrame]:
    """The table, some `size` bytes of its rows at a time: what `read` gives, in pieces.

    `chunks`: the file's bytes; the first is one that can be streamed. Raises RejectedError, which names
    the rows that are around.
    """
    source = iter(chunks)
    first = next(source, b"")
    beginning = utf8(_whole_lines(first), reading, "CSV")
    delimiter = _delimiter(beginning, reading)
    encoding = "utf-8-sig" if reading.encoding == "utf-8" else reading.encoding
    text = io.TextIOWrapper(io.BufferedReader(Bytes(first, source)), encoding, newline="")
    rows = 0
    try:
        with _errors(delimiter):
            header = _header(beginning, delimiter)
            at_once = _rows_at_once(beginning, len(header), size)
            frames = pd.read_csv(text, chunksize=at_once, **_options(header, delimiter, reading, numbers))
            while (frame := next(frames, None)) is not None:
                yield _checked(frame.reset_index(drop=True), header, reading, numbers)
                rows += len(frame)
    except RejectedError as error:
        raise RejectedError(f"{error} (after data row {rows:,})" if rows else str(error)) from error


def header(beginning: bytes, reading: Reading) -> tuple[list[str], str]:
    """The column names as pandas calls them, and the delimiter. Raises RejectedError."""
    beginning = utf8(_whole_lines(beginning), reading, "CSV")
    delimiter = _delimiter(beginning, reading)
    with _errors(delimiter):
        return _header(beginning, delimiter), delimiter


class Bytes(io.RawIOBase):
    """Chunks as a file; text has no NUL bytes."""

    def __init__(self, first: bytes, others: Iterator[bytes]) -> None:
        self._left = memoryview(first)
        self._others = others

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            chunk = next(self._others, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        number = min(len(buffer), len(self._left))
        buffer[:number] = self._left[:number]
        if b"\0" in bytes(self._left[:number]):
            raise RejectedError("is binary, not CSV text: it has a NUL byte")
        self._left = self._left[number:]
        return number


def _whole_lines(beginning: bytes) -> bytes:
    """Up to its last line end: nothing is cut within a character."""
    return beginning[: max(beginning.rfind(b"\n"), beginning.rfind(b"\r")) + 1]


def _rows_at_once(beginning: bytes, columns: int, size: int) -> int:
    lines = max(beginning.count(b"\n"), beginning.count(b"\r"), 1)
    return max(1, min(size * lines // max(len(beginning), 1), MOST_CELLS // columns))


@contextmanager
def _errors(delimiter: str) -> Iterator[None]:
    """What pandas says of a file, as our own."""
    try:
        with warnings.catch_warnings():
            # Left a warning, pandas would shift or cut the columns of rows that are too long.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except pd.errors.ParserWarning as error:
        raise RejectedError(
            f"has more values in its rows than names in its header: check the {_named(delimiter)}"
        ) from error
    except UnicodeDecodeError as error:
        raise RejectedError(
            f"is not {error.encoding.upper()} text: byte 0x{error.object[error.start]:02x}; save it as "
            "UTF-8, or say in the dataset's file how it is written: read: {encoding: latin-1}"
        ) from error
    except (csv.Error, ValueError, OverflowError) as error:
        if "out of memory" in str(error):
            raise MemoryError(str(error)) from error
        # pandas' ParserError and EmptyDataError are ValueErrors.
        raise RejectedError(f"is no readable CSV: {printable(str(error), 200)}") from error


def _checked(
    frame: pd.DataFrame, header: list[str], reading: Reading, numbers: Collection[str]
) -> pd.DataFrame:
    if list(frame.columns) != header:
        raise RejectedError("is no readable CSV: its header can be read in two ways; check the quotes")
    return frame if reading.decimal == "." and not reading.thousands else _localised(frame, reading, numbers)


def _options(header: list[str], delimiter: str, reading: Reading, numbers: Collection[str]) -> dict[str, Any]:
    """Of pandas' parser."""
    plain = reading.decimal == "." and not reading.thousands
    return {
        "sep": delimiter,
        "engine": "c",
        "index_col": False,
        "dtype": {name: str for name in header if not (plain and name in numbers)},
        "keep_default_na": False,
        "na_values": {name: NO_NUMBER if name in numbers else [""] for name in header},
        "low_memory": False,
    }


def _header(content: bytes, delimiter: str) -> list[str]:
    """The column names as pandas calls them. Raises RejectedError when one comes twice."""
    return named_columns(next(_records(content, delimiter), []))


def _records(content: bytes, delimiter: str) -> Iterator[list[str]]:
    """Row by row, without taking up more of the file than is asked for. Raises csv.Error."""
    return csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8", newline=""), delimiter=delimiter)


def _check_padding(content: bytes, columns: int, reading: Reading) -> None:
    """Short rows are filled up: a small file of many columns and many short rows would fill the memory."""
    if columns * len(content) * CELL_BYTES <= reading.max_bytes:
        return
    cells = columns * (content.count(b"\n") + content.count(b"\r") + 1)
    # A cell that is there has a byte at least, its delimiter.
    if cells * CELL_BYTES > reading.max_bytes and cells > 2 * len(content):
        raise RejectedError(
            f"has {columns:,} columns and many rows that lack most of them: "
            f"filled up they would take more than {reading.max_bytes:,} bytes"
        )


def _delimiter(content: bytes, reading: Reading) -> str:
    return _sniffed(content, reading) if reading.delimiter == "auto" else reading.delimiter


def _sniffed(content: bytes, reading: Reading) -> str:
    """The delimiter that splits the header into the most fields, and the first rows into as many."""
    first_line = content[: content.find(b"\n") + 1 or None]
    if not any(mark in first_line for mark in b';\t|"'):
        return "," if reading.decimal == "." or b"," in first_line else ";"
    # A decimal comma is no delimiter where another would do.
    order = ";\t|," if reading.decimal == "," else ",;\t|"
    fields = {delimiter: _fields(content, delimiter) for delimiter in order}
    even = [d for d in order if fields[d][0] > 1 and len(set(fields[d])) == 1]
    if reading.decimal == "," and len(even) > 1:
        even = [d for d in even if d != ","]
    if even:
        return max(even, key=lambda d: fields[d][0])
    return "," if fields[","][0] > 1 else max(order, key=lambda d: fields[d][0])


def _fields(content: bytes, delimiter: str) -> list[int]:
    """How many fields the first rows have; blank ones are left out."""
    counts = []
    try:
        for row in itertools.islice(_records(content, delimiter), _SNIFFED_ROWS + 1):
            if len(row) > 1 or "".join(row).strip():
                counts.append(len(row))  # noqa: PERF401 - what was read before an error counts
    except csv.Error:
        pass
    return counts or [0]


def _named(delimiter: str) -> str:
    names = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
    return names.get(delimiter, f"delimiter {delimiter!r}")


def _localised(frame: pd.DataFrame, reading: Reading, numbers: Collection[str]) -> pd.DataFrame:
    """Numbers of the declared spelling parsed. Any other spelling is rejected: 1.234 may mean either."""
    thousands, decimal = re.escape(reading.thousands or ""), re.escape(reading.decimal)
    # Groups of two are India's.
    whole = (
        rf"[0-9]{{1,3}}(?:{thousands}[0-9]{{2,3}})*{thousands}[0-9]{{3}}|[0-9]+" if thousands else "[0-9]+"
    )
    number = re.compile(rf"[+-]?(?:(?:{whole})(?:{decimal}[0-9]*)?|{decimal}[0-9]+)(?:[eE][+-]?[0-9]+)?")
    for name in frame.columns.intersection(list(numbers), sort=False):
        values = [None if pd.isna(v) else str(v).strip() for v in frame[name]]
        bad = next((i for i, v in enumerate(values) if v is not None and not number.fullmatch(v)), None)
        if bad is not None:
            grouped = f" and thousands {reading.thousands!r}" if thousands else ""
            raise RejectedError(
                f"column {printable(str(name), 40)}: the value {printable(repr(values[bad]), 40)} "
                f"in data row {bad + 1} is no number written with decimal {reading.decimal!r}{grouped}"
            )
        plain = [v and v.replace(reading.thousands or " ", "").replace(reading.decimal, ".") for v in values]
        frame[name] = pd.to_numeric(pd.Series(plain, dtype=object, index=frame.index))
    return frame
