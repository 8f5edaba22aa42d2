"""Raw bytes to a DataFrame. Pure: no Prefect, no store."""

import csv
import io
import warnings
from collections.abc import Collection

import pandas as pd

from dropflow.errors import RejectedError
from dropflow.objects import printable

_MAGIC = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive or Excel workbook",
    b"\x1f\x8b": "a gzip archive",
    b"PAR1": "a Parquet file",
}


NO_NUMBER = ["", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "None"]
"""What stands for a missing number. In other columns only an empty cell does: Null is a surname."""


def read_csv(content: bytes, numbers: Collection[str]) -> pd.DataFrame:
    """Parse a comma-separated UTF-8 file with a header row; columns not in `numbers` stay text.

    Returns a frame of at least one row. Raises RejectedError with what is wrong and where.
    """
    text = _decode(content)
    try:
        header = _header(text)
        frame = _parse(text, header, numbers)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise RejectedError(f"is no readable CSV: {printable(str(error), 200)}") from error
    except pd.errors.ParserWarning as error:
        raise RejectedError(
            "has more values in its rows than names in its header: check the commas"
        ) from error
    if frame.empty:
        raise RejectedError("has a header but no rows: nothing to prepare")
    return frame


def _parse(text: str, header: list[str], numbers: Collection[str]) -> pd.DataFrame:
    with warnings.catch_warnings():
        # Left a warning, pandas would shift or cut the columns of rows that are too long.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            io.StringIO(text),
            index_col=False,
            dtype={name: str for name in header if name not in numbers},
            keep_default_na=False,
            na_values={name: NO_NUMBER if name in numbers else [""] for name in header},
            low_memory=False,
        )


def _decode(content: bytes) -> str:
    if not content:
        raise RejectedError("is empty (0 bytes): the upload may have been cut off; send it again")
    for magic, kind in _MAGIC.items():
        if content.startswith(magic):
            raise RejectedError(f"is {kind}, not CSV text: export the table as CSV")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RejectedError(
            f"is not UTF-8 text: byte 0x{content[error.start]:02x} in line {line}; save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise RejectedError(f"is binary, not CSV text: it has a NUL byte in line {line}")
    if not text.strip():
        raise RejectedError("is blank: it has no header and no rows")
    # pandas skips blank lines before the header; so does _header.
    return text.lstrip("\r\n")


def _header(text: str) -> list[str]:
    """The column names. Raises RejectedError when one comes twice."""
    header = next(csv.reader(io.StringIO(text[:1_000_000])), [])
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        names = ", ".join(printable(name, 40) for name in twice[:5])
        raise RejectedError(f"has columns of the same name: {names}; rename them")
    return header
