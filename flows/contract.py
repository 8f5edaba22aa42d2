"""Does a frame hold what its dataset promises? Pure pandas."""

import numpy as np
import pandas as pd

from dropflow.datasets import Column, Dataset, did_you_mean
from dropflow.errors import RejectedError
from dropflow.objects import printable

MOST_PROBLEMS = 5
"""A reason must be readable on a phone."""


def validate(frame: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The columns of the contract (and kept unknown ones), numbers parsed, order as in the file.

    Shape (rows, columns) in: any; out: the same rows. Raises RejectedError listing what breaks the
    contract, each with column, count and the first data row (the header is row 0).
    """
    _check_names(frame, dataset)
    known = [name for name in frame.columns if name in dataset.columns]
    if dataset.unknown_columns == "drop":
        frame = frame[known]
    problems: list[str] = []
    checked = frame.copy()
    for name in known:
        series, found = _check(frame[name], dataset.columns[name])
        checked[name] = series
        problems += found
    if problems:
        more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        raise RejectedError("; ".join(problems[:MOST_PROBLEMS]) + more)
    return checked


def _check_names(frame: pd.DataFrame, dataset: Dataset) -> None:
    missing = [name for name in dataset.columns if name not in frame.columns]
    unknown = [str(name) for name in frame.columns if name not in dataset.columns]
    if missing:
        close = did_you_mean(missing[0], unknown)
        raise RejectedError(
            f"lacks the columns {', '.join(missing)}; it has "
            f"{printable(', '.join(map(str, frame.columns)), 200)}{close}"
        )
    if unknown and dataset.unknown_columns == "reject":
        raise RejectedError(f"has unknown columns: {printable(', '.join(unknown), 200)}")


def _check(series: pd.Series, column: Column) -> tuple[pd.Series, list[str]]:
    problems: list[str] = []
    if column.type == "number":
        series, problems = _numbers(series, column)
    elif column.type == "category":
        # Plain objects with NaN for gaps: what scikit-learn's imputers and encoders expect.
        series = series.astype(object).where(series.notna(), np.nan)
        if column.values is not None:
            allowed = series.isin(column.values) | series.isna()
            problems = _complain(series, ~allowed, f"is none of {', '.join(column.values)}")
    if not column.nullable:
        problems += _complain(series, series.isna(), "is missing", show=False)
    return series, problems


def _numbers(series: pd.Series, column: Column) -> tuple[pd.Series, list[str]]:
    if series.dtype == bool:
        series = series.astype(object).astype(str)
    numbers = pd.to_numeric(series, errors="coerce")
    problems = _complain(series, numbers.isna() & series.notna(), "is no number")
    problems += _complain(series, numbers.abs() == float("inf"), "is not finite")
    if column.min is not None:
        problems += _complain(series, numbers < column.min, f"is below {column.min:g}")
    if column.max is not None:
        problems += _complain(series, numbers > column.max, f"is above {column.max:g}")
    return numbers, problems


def _complain(series: pd.Series, bad: pd.Series, what: str, *, show: bool = True) -> list[str]:
    """One problem naming the first bad value and its line, or none."""
    count = int(bad.sum())
    if not count:
        return []
    first = int(bad.to_numpy().argmax())
    value = f" {printable(repr(series.iloc[[first]].tolist()[0]), 40)}" if show else ""
    others = f" (and {count - 1:,} more rows)" if count > 1 else ""
    return [f"column {series.name}: the value{value} in data row {first + 1} {what}{others}"]
