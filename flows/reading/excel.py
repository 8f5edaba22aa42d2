"""Excel workbooks to a DataFrame, by openpyxl, which need not be installed."""

import importlib
import io
import itertools
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from dropflow.errors import RejectedError, SettingsError
from dropflow.formats import Reading
from dropflow.objects import printable
from flows.reading.columns import CELL_BYTES, MOST_COLUMNS, frame_of, named_columns
from flows.reading.compression import CONTENT_TYPES, ZIP_ERRORS, archive_of, check_member, chunks
from flows.reading.rejections import bytes_of, said, too_large, too_much_text
from flows.reading.signatures import MAGIC, ZIP

MOST_EXCEL_ROWS = 1_048_576


def read(content: bytes, reading: Reading, numbers: Collection[str]) -> pd.DataFrame:
    try:
        openpyxl = importlib.import_module("openpyxl")
    except ImportError as error:
        raise SettingsError("reading Excel needs openpyxl: pip install dropflow[excel]") from error
    if not content.startswith(ZIP):
        other = next((what for magic, what in MAGIC.items() if content.startswith(magic)), "")
        raise RejectedError(f"is no Excel workbook (.xlsx){f' but {other}' if other else ''}: save it as one")
    _check_workbook(content, reading)
    try:
        with warnings.catch_warnings():
            # openpyxl warns of styles and extensions that it leaves out.
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(
                io.BytesIO(content), read_only=True, data_only=True, keep_links=False
            )
            names, rows = _cells(_sheet(book, reading.sheet), reading)
    except (RejectedError, MemoryError):
        raise
    except Exception as error:
        # openpyxl trusts what it reads: a damaged workbook raises whatever comes of that.
        raise RejectedError(f"is no readable Excel workbook: {said(error)}") from error
    if not rows:
        raise RejectedError("has a header but no rows: nothing to prepare")
    # To Excel a formula that gives "" has a value; to a person the cell is empty.
    columns = {
        name: [None if v == "" else v for v in values]
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }
    return frame_of(columns, numbers)


def _check_workbook(content: bytes, reading: Reading) -> None:
    """Decompress every part, keeping none: a bomb must be found before openpyxl opens it."""
    total = 0
    with archive_of(content) as archive:
        if CONTENT_TYPES not in archive.NameToInfo:
            raise RejectedError("is no Excel workbook (.xlsx) but a ZIP archive: save it as a workbook")
        for info in archive.infolist():
            check_member(info)
            try:
                with archive.open(info) as part:
                    for chunk in chunks(part):
                        total += len(chunk)
                        if total > reading.max_bytes:
                            raise too_large(reading)
            except ZIP_ERRORS as error:
                raise RejectedError(
                    f"is a damaged Excel workbook ({said(error)}): "
                    "the upload may have been cut off; send it again"
                ) from error


def _sheet(book: Any, wanted: str | int) -> Any:
    sheets = book.worksheets
    if isinstance(wanted, int) and wanted < len(sheets):
        return sheets[wanted]
    for sheet in sheets:
        if sheet.title == wanted:
            return sheet
    titles = ", ".join(printable(sheet.title, 40) for sheet in sheets[:5]) or "none"
    shown = f"{wanted} (from 0)" if isinstance(wanted, int) else printable(wanted, 40)
    raise RejectedError(f"has no sheet {shown}; it has {titles}")


def _cells(sheet: Any, reading: Reading) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The names and the rows below, all as wide as the header; rows without any value are left out.

    Raises RejectedError, and whatever openpyxl raises.
    """
    # What a sheet says of its own size may be wrong, and would cut it.
    sheet.reset_dimensions()
    header: list[str] = []
    rows: list[tuple[Any, ...]] = []
    text = 0
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        if number > MOST_EXCEL_ROWS or len(row) > MOST_COLUMNS:
            raise RejectedError(f"has more than Excel's {MOST_EXCEL_ROWS:,} rows or {MOST_COLUMNS:,} columns")
        if row.count(None) == len(row):
            continue
        text += _text(row)
        if text > reading.max_bytes:
            longest = _longest(header, [*rows, row])
            raise too_much_text(reading, f"sheet {printable(sheet.title, 40)}, mostly {longest},", text)
        if not header:
            header = named_columns(["" if name is None else str(name) for name in _trimmed(row)])
            continue
        if row[len(header) :].count(None) < len(row) - len(header):
            raise RejectedError(f"has values right of its header's {len(header):,} columns in row {number:,}")
        rows.append(row[: len(header)] + (None,) * (len(header) - len(row)))
        if len(rows) * len(header) * CELL_BYTES + text > reading.max_bytes:
            raise too_large(reading)
    if not header:
        raise RejectedError("is blank: its sheet has no header and no rows")
    return header, rows


def _text(values: Sequence[Any]) -> int:
    """Bytes of the texts among them: each counts, also where the file has one for many cells."""
    return sum(bytes_of(value) for value in values if isinstance(value, str))


def _longest(header: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """Where most of the text is."""
    sizes = [_text(column) for column in itertools.zip_longest(*rows)]
    place = sizes.index(max(sizes))
    return f"column {printable(header[place], 40) if place < len(header) else place + 1}"


def _trimmed(row: tuple[Any, ...]) -> tuple[Any, ...]:
    width = len(row)
    while row[width - 1] is None:
        width -= 1
    return row[:width]
