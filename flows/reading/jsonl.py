"""JSON lines to a DataFrame."""

import io
import itertools
import json
from collections.abc import Collection, Iterator
from typing import Any

import pandas as pd

from dropflow.errors import RejectedError
from dropflow.formats import Reading
from dropflow.objects import printable
from flows.reading.columns import CELL_BYTES, MOST_COLUMNS, check_names, frame_of
from flows.reading.rejections import too_large
from flows.reading.text import utf8

_KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def read(content: bytes, reading: Reading, numbers: Collection[str]) -> pd.DataFrame:
    columns: dict[str, list[Any]] = {}
    rows = 0
    for line, row in _objects(utf8(content, reading, "JSON lines")):
        for name, value in row.items():
            values = columns.setdefault(name, [])
            values.extend(itertools.repeat(None, rows - len(values)))
            values.append(value)
        rows += 1
        if len(columns) > MOST_COLUMNS:
            raise RejectedError(f"has more than {MOST_COLUMNS:,} columns by line {line:,}")
        if rows * len(columns) * CELL_BYTES > reading.max_bytes:
            raise too_large(reading)
    for values in columns.values():
        values.extend(itertools.repeat(None, rows - len(values)))
    check_names(list(columns))
    return frame_of(columns, numbers)


def _objects(content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line (from 1) and the object of every line that is not blank. Raises RejectedError."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    for line, text in enumerate(io.BytesIO(content), 1):
        if text.isspace():
            continue
        try:
            row = decoder.decode(text.decode())
        except (ValueError, RecursionError) as error:
            reason = printable(str(error).partition(": line 1")[0], 100)
            raise RejectedError(f"is no readable JSON in line {line:,}: {reason}") from error
        if not isinstance(row, dict):
            raise RejectedError(
                f"has no JSON object in line {line:,} but {_KINDS.get(type(row), 'null')}: "
                "write one object per line"
            )
        yield line, row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("an object has the same name twice")
    return row
