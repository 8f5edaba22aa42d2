"""Names and values of columns that no library has made a frame of, and the bounds of all frames."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

import pandas as pd

from dropflow.errors import RejectedError
from dropflow.objects import printable

NO_NUMBER = ["", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "None"]
"""What stands for a missing number. In other columns only an empty cell does: Null is a surname."""

MOST_COLUMNS = 16_384
"""As many as Excel has. pandas takes seconds for more, whatever the rows."""

CELL_BYTES = 8
"""What a cell takes in a frame at the least, also where the file leaves it out."""

EXACT = 2**53
"""Whole numbers up to this are exact as floats."""


def named_columns(header: Sequence[str]) -> list[str]:
    """The names, with pandas' own for one that is empty: it is the index that pandas wrote.

    Raises RejectedError when several are empty or the same, or when there are too many.
    """
    unnamed = sum(not name for name in header)
    if unnamed > 1:
        raise RejectedError(f"has {unnamed:,} columns without a name: name them, or remove them")
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header)]
    check_names(names)
    return names


def check_names(names: Sequence[str]) -> None:
    if len(names) > MOST_COLUMNS:
        raise RejectedError(f"has {len(names):,} columns: at most {MOST_COLUMNS:,} can be read")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        shown = ", ".join(printable(name, 40) for name in twice[:5])
        raise RejectedError(f"has columns of the same name: {shown}; rename them")
    if "" in names:
        raise RejectedError("has a column without a name: name it")


def frame_of(columns: Mapping[str, Sequence[Any]], numbers: Collection[str]) -> pd.DataFrame:
    """A frame of columns of equal length, whose values have the types that their file gave them."""
    try:
        for name in columns:
            name.encode()
        return pd.DataFrame(
            {name: _column(name, values, name in numbers) for name, values in columns.items()}
        )
    except UnicodeEncodeError as error:
        raise RejectedError("has half a character (a surrogate) in a text: write whole ones") from error


def _column(name: str, values: Sequence[Any], number: bool) -> pd.Series:
    kinds = set(map(type, values)) - {type(None)}
    nested = kinds & {list, dict}
    if nested:
        row = next(i for i, value in enumerate(values, 1) if type(value) in nested)
        raise RejectedError(
            f"column {printable(name, 40)} holds lists or objects (first in data row {row:,}): "
            "flatten it into plain columns"
        )
    if number:
        return _number_column(name, values, kinds)
    if kinds == {bool}:
        return pd.Series(values, dtype=object if None in values else bool)
    found = _numeric(values) if kinds and kinds <= {int, float} else None
    if found is not None:
        return found
    if kinds and kinds <= {date, datetime}:
        return pd.Series(values, dtype="datetime64[us]")
    if kinds in ({timedelta}, {time}):
        return pd.Series(values, dtype="timedelta64[us]" if timedelta in kinds else object)
    return pd.Series(_texts(values), dtype=str)


def _number_column(name: str, values: Sequence[Any], kinds: set[type]) -> pd.Series:
    """Numbers; as text once there is other than numbers among them, for the contract to complain of."""
    if not kinds <= {int, float}:
        values = [None if value in NO_NUMBER else value for value in values]
        if not set(map(type, values)) <= {int, float, type(None)}:
            return pd.Series(_texts(values), dtype=str)
    found = _numeric(values)
    if found is None:
        large = max((v for v in values if v is not None), key=abs)
        raise RejectedError(
            f"column {printable(name, 40)}: the number {printable(str(large), 40)} "
            "is too large to be kept exactly"
        )
    return found


def _numeric(values: Sequence[Any]) -> pd.Series | None:
    """The numbers without rounding a whole one; None where pandas has no type for that."""
    whole = [value for value in values if type(value) is int]
    low, high = min(whole, default=0), max(whole, default=0)
    exact = max(-low, high) <= EXACT
    gaps = None in values
    if any(type(value) is float for value in values) or not whole or (gaps and exact):
        return pd.Series(values, dtype=float) if exact else None
    if max(-low - 1, high) < 2**63:
        return pd.Series(values, dtype="Int64" if gaps else "int64")
    if low >= 0 and high < 2**64:
        return pd.Series(values, dtype="UInt64" if gaps else "uint64")
    return None


def _texts(values: Sequence[Any]) -> list[str | None]:
    return [None if value is None else str(value) for value in values]
