"""Does a frame hold what its dataset promises? Pure pandas."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from dropflow.columns import Column
from dropflow.datasets import Dataset
from dropflow.errors import RejectedError
from dropflow.objects import printable
from dropflow.words import did_you_mean
from flows.transformers import (
    LARGEST_WHOLE,
    gaps_of,
    is_whole,
    to_booleans,
    to_datetimes,
    to_numbers,
    to_texts,
)

MOST_PROBLEMS = 5
"""A reason must be readable on a phone."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one column. `rows`: a mask of the frame's rows."""

    column: str
    rows: pd.Series
    what: str
    shown: bool
    """Whether the value says more than that it is missing."""

    def told(self, series: pd.Series, first_row: int = 0) -> str:
        """The problem with the first bad value and its row; `first_row`: the place of the series' first."""
        count = int(self.rows.sum())
        first = int(self.rows.to_numpy().argmax())
        value = f" {printable(repr(series.iloc[[first]].tolist()[0]), 40)}" if self.shown else ""
        others = f" (and {count - 1:,} more rows)" if count > 1 else ""
        return (
            f"column {self.column}: the value{value} in data row {first_row + first + 1} {self.what}{others}"
        )


@dataclass(frozen=True)
class Checked:
    """A frame and its rows that hold the contract, with those that do not set aside.

    `good`: columns parsed, the index is the row's number in the file from 0. `bad`: as read, with the
    same index and columns `_row` (from 1) and `_reason` in front.
    """

    good: pd.DataFrame
    bad: pd.DataFrame
    reasons: dict[str, int] = field(default_factory=dict)
    """Number of rows by problem, without their values."""
    examples: dict[str, str] = field(default_factory=dict)


def validate(frame: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The frame parsed, all rows of it. Raises RejectedError listing whatever breaks the contract."""
    checked = check(frame, dataset, max_share=0.0)
    return checked.good


def check(
    frame: pd.DataFrame,
    dataset: Dataset,
    *,
    max_share: float | None = None,
    serving: bool = False,
    first_row: int | None = None,
) -> Checked:
    """The columns of the contract (and kept unknown ones), parsed, order as in the file.

    Shape (rows, columns) in: any; out: the good rows and the bad ones. Raises RejectedError when columns
    are missing or unknown against the dataset's will, or more than `max_share` of the rows are bad
    (default: the dataset's). Each problem is told with column, count and the first data row (the header
    is row 0). `serving`: the target may be missing. `first_row`: the frame is a part of a file, of which
    all rows may be bad, and this the place of its first one from 0.
    """
    share = dataset.quarantine.max_share if max_share is None else max_share
    parsed = _with_columns(frame.reset_index(drop=True), dataset, serving=serving)
    raw = parsed.copy(deep=False)
    problems: list[Problem] = []
    for name in [name for name in parsed.columns if name in dataset.columns]:
        read = parsed[name]
        column, found = _check(read, dataset.columns[name])
        if column is not read:
            parsed[name] = column
        problems += found
    bad = np.zeros(len(parsed), dtype=bool)
    for problem in problems:
        bad |= problem.rows.to_numpy()
    if first_row is None and bad.any() and (bad.sum() > share * len(parsed) or bad.all()):
        raise RejectedError(_told(problems, raw, int(bad.sum()), share))
    if not bad.any():
        return Checked(parsed, raw[:0])
    reasons = {f"column {p.column}: {p.what}": int(p.rows.sum()) for p in problems}
    examples = {f"column {p.column}: {p.what}": p.told(raw[p.column], first_row or 0) for p in problems}
    return Checked(parsed[~bad], _set_aside(raw, bad, problems), reasons, examples)


def _set_aside(raw: pd.DataFrame, bad: np.ndarray, problems: list[Problem]) -> pd.DataFrame:
    reasons = pd.Series("", index=raw.index[bad], dtype=object)
    for problem in problems:
        rows = problem.rows[bad]
        before = reasons[rows]
        reasons[rows] = (
            before + before.map(lambda text: "; " if text else "") + f"{problem.column} {problem.what}"
        )
    rejected = raw[bad].copy()
    rejected.insert(0, _free("_reason", raw), reasons)
    rejected.insert(0, _free("_row", raw), rejected.index + 1)
    return rejected


def _free(name: str, frame: pd.DataFrame) -> str:
    """The name, or one like it where the file has a column of that name."""
    while name in frame.columns:
        name = f"_{name}"
    return name


def _told(problems: list[Problem], raw: pd.DataFrame, bad: int, share: float) -> str:
    told = [problem.told(raw[problem.column]) for problem in problems[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        told.append(f"and {len(problems) - MOST_PROBLEMS} more")
    if share and len(raw) > 1:
        told.append(f"{bad:,} of {len(raw):,} rows are bad, more than {share:.0%} may be set aside")
    return "; ".join(told)


def _with_columns(frame: pd.DataFrame, dataset: Dataset, *, serving: bool) -> pd.DataFrame:
    """The columns that are wanted; missing ones with gaps where that is allowed."""
    optional = {dataset.target} if serving else set()
    missing = [name for name in dataset.columns if name not in frame.columns and name not in optional]
    unknown = [str(name) for name in frame.columns if name not in dataset.columns]
    lacking = [
        name for name in missing if dataset.missing_columns == "reject" or not dataset.columns[name].nullable
    ]
    if lacking:
        close = did_you_mean(lacking[0], unknown)
        raise RejectedError(
            f"lacks the columns {', '.join(lacking)}; it has "
            f"{printable(', '.join(map(str, frame.columns)), 200)}{close}"
        )
    if unknown and dataset.unknown_columns == "reject":
        raise RejectedError(f"has unknown columns: {printable(', '.join(unknown), 200)}")
    there = [name for name in frame.columns if name in dataset.columns]
    if dataset.column_order == "declared" and there != [n for n in dataset.columns if n in there]:
        raise RejectedError(
            f"has its columns in another order than declared: {printable(', '.join(there), 200)}"
        )
    if unknown and dataset.unknown_columns == "drop":
        frame = frame[there]
    return frame.assign(**dict.fromkeys(missing, np.nan)) if missing else frame.copy(deep=False)


def _check(series: pd.Series, column: Column) -> tuple[pd.Series, list[Problem]]:
    problems: list[Problem] = []

    def complain(rows: npt.NDArray[np.bool_], what: str, *, shown: bool = True) -> None:
        if rows.any():
            problems.append(Problem(str(series.name), pd.Series(rows, index=series.index), what, shown))

    parsed = _parsed(series, column)
    missing = gaps_of(series)
    gaps = missing if parsed is series or _is_all_readable(series, column) else gaps_of(parsed)
    complain(gaps & ~missing, UNREADABLE[column.type])
    if column.type == "number":
        values = parsed.to_numpy()
        complain(np.isinf(values), "is not finite")
        if column.min is not None:
            complain(values < column.min, f"is below {column.min:g}")
        if column.max is not None:
            complain(values > column.max, f"is above {column.max:g}")
        if column.unique:
            complain(np.abs(values) >= LARGEST_WHOLE, "is no exact number: declare the column as text")
    if column.values is not None:
        known = parsed.isin(column.values).to_numpy()
        complain(~(known | gaps), f"is none of {', '.join(column.values)}")
    if column.unique:
        complain(parsed.duplicated().to_numpy() & ~gaps, "is there before: values must be unique")
    if not column.nullable:
        complain(missing, "is missing", shown=False)
    return parsed, problems


def _is_all_readable(series: pd.Series, column: Column) -> bool:
    """Whatever there is has a text, and a whole number is one."""
    return column.type in ("category", "text") or (column.type == "number" and is_whole(series))


UNREADABLE = {
    "number": "is no number",
    "datetime": "is no date and time",
    "boolean": "is neither true nor false",
    "category": "is no text",
    "text": "is no text",
}


def _no_numbers_removed(series: pd.Series) -> pd.Series:
    """Gaps for what pandas takes for a number, left to itself: True, and dates."""
    if series.dtype == object:
        return series.mask(series.map(type).isin([bool, np.bool_]))
    if pd.api.types.is_bool_dtype(series.dtype) or series.dtype.kind in "mM":
        return pd.Series(np.nan, index=series.index, name=series.name)
    return series


def _parsed(series: pd.Series, column: Column) -> pd.Series:
    if column.type == "number":
        return series if series.dtype == float else to_numbers(_no_numbers_removed(series))
    if column.type == "datetime":
        return to_datetimes(series, column.format)
    if column.type == "boolean":
        return to_booleans(series)
    # As it is read: plain objects take five times the time.
    texts = series if isinstance(series.dtype, pd.StringDtype) else to_texts(series)
    return texts if texts.dtype == "str" else texts.astype("str")
