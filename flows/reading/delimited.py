"""CSV and its relatives to a DataFrame."""

import csv
import io
import itertools
import re
import warnings
from collections.abc import Collection, Iterator

import pandas as pd

from dropflow.errors import RejectedError
from dropflow.formats import Reading
from dropflow.objects import printable
from flows.reading.columns import CELL_BYTES, NO_NUMBER, named_columns
from flows.reading.text import utf8

_SNIFFED_ROWS = 20


def read(content: bytes, reading: Reading, numbers: Collection[str]) -> pd.DataFrame:
    content = utf8(content, reading, "CSV")
    delimiter = _sniffed(content, reading) if reading.delimiter == "auto" else reading.delimiter
    try:
        header = _header(content, delimiter)
        _check_padding(content, len(header), reading)
        frame = _parse(content, header, delimiter, reading, numbers)
    except pd.errors.ParserWarning as error:
        raise RejectedError(
            f"has more values in its rows than names in its header: check the {_named(delimiter)}"
        ) from error
    except (csv.Error, ValueError, OverflowError) as error:
        # pandas' ParserError and EmptyDataError are ValueErrors.
        raise RejectedError(f"is no readable CSV: {printable(str(error), 200)}") from error
    if list(frame.columns) != header:
        raise RejectedError("is no readable CSV: its header can be read in two ways; check the quotes")
    return frame if reading.decimal == "." and not reading.thousands else _localised(frame, reading, numbers)


def _parse(
    content: bytes, header: list[str], delimiter: str, reading: Reading, numbers: Collection[str]
) -> pd.DataFrame:
    plain = reading.decimal == "." and not reading.thousands
    with warnings.catch_warnings():
        # Left a warning, pandas would shift or cut the columns of rows that are too long.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            io.BytesIO(content),
            sep=delimiter,
            engine="c",
            index_col=False,
            dtype={name: str for name in header if not (plain and name in numbers)},
            keep_default_na=False,
            na_values={name: NO_NUMBER if name in numbers else [""] for name in header},
            low_memory=False,
        )


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
