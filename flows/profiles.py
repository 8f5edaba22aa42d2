"""What is in a frame, in figures: those of the quality report. Pure pandas and numpy."""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dropflow.quality import (
    LONGEST_NAME,
    LONGEST_VALUE,
    MOST_COLUMNS,
    MOST_DISTINCT,
    ColumnProfile,
    FrameProfile,
    Frequent,
    Kind,
    Numbers,
    short,
)
from flows.transformers import factorized

Floats = npt.NDArray[np.float64]

MOST_BINS = 20
MOST_VALUES = 8
MOST_CATEGORIES = 50
"""Text with at most so many distinct values, on average found twice, is a category."""
WIDEST = 2**16
"""Between the smallest and the largest of whole numbers that are counted without being sorted."""
FINEST_GRID = 1_000
"""Values on a grid of more points than this fill bins evenly enough wherever these begin."""

_NUMBERS = {"integer", "floating", "mixed-integer-float", "decimal"}
_INFERRED: dict[str, Kind] = {
    "boolean": "boolean",
    "datetime64": "datetime",
    "datetime": "datetime",
    "date": "datetime",
}


def profile(frame: pd.DataFrame) -> FrameProfile:
    """The figures of a frame of any shape and dtypes, in time that grows with its rows.

    Raises nothing for what cells or names hold (signalling decimal NaNs apart, which pandas cannot even
    print). What does not hash is counted as the text it prints as.
    """
    columns = min(frame.shape[1], MOST_COLUMNS)
    return FrameProfile(
        rows=len(frame),
        # Not by name: names may come twice.
        columns=tuple(_column(series) for _, series in itertools.islice(frame.items(), columns)),
        left_out=frame.shape[1] - columns,
    )


def _column(series: pd.Series) -> ColumnProfile:
    name = short(series.name, LONGEST_NAME)
    if isinstance(series.dtype, pd.SparseDtype):
        series = series.astype(series.dtype.subtype)
    kind = _kind(series)
    if kind == "number":
        values = _floats(series)
        if values is not None:
            return _of_numbers(name, values)
    return _of_values(name, series, None if kind == "number" else kind)


def _kind(series: pd.Series) -> Kind | None:
    """None for text, which may turn out to be a category."""
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean"
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "datetime"
    if pd.api.types.is_numeric_dtype(dtype):
        return None if pd.api.types.is_complex_dtype(dtype) else "number"
    if pd.api.types.is_object_dtype(dtype):
        inferred = pd.api.types.infer_dtype(series, skipna=True)
        return "number" if inferred in _NUMBERS else _INFERRED.get(inferred)
    return None


def _floats(series: pd.Series) -> Floats | None:
    """The numbers as 64-bit floats, NaN where missing; None when they do not fit."""
    try:
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    except (OverflowError, TypeError, ValueError):
        return None


def _of_numbers(name: str, values: Floats) -> ColumnProfile:
    is_finite = np.isfinite(values)
    finite = values if is_finite.all() else values[is_finite]
    infinite = values[np.isinf(values)] if len(finite) < len(values) else values[:0]
    distinct, times = _counted(finite) if len(finite) else (finite, np.empty(0, np.intp))
    return ColumnProfile(
        name,
        "number",
        missing=len(values) - len(finite) - len(infinite),
        distinct=min(len(distinct) + len({*infinite.tolist()}), MOST_DISTINCT + 1),
        distribution=_numbers(finite, distinct, times) if len(finite) else None,
        infinite=len(infinite),
    )


def _counted(finite: Floats) -> tuple[Floats, npt.NDArray[np.intp]]:
    """The distinct ones of at least one finite number, sorted, and how often each is there."""
    # Whole numbers: counting takes a fifth of the time that sorting does. The first few tell of most others.
    if _are_whole(finite[:20]) and _are_whole(finite):
        low, high = finite.min(), finite.max()
        if high / 2 - low / 2 < WIDEST / 2:
            times = np.bincount((finite - low).astype(np.intp))
            (places,) = times.nonzero()
            return places + low, times[places]
    ordered = np.sort(finite)
    is_new = np.empty(len(ordered), dtype=bool)
    is_new[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    (places,) = is_new.nonzero()
    if len(places) == len(ordered):
        return ordered, np.ones(len(ordered), np.intp)
    return ordered[places], _gaps(np.append(places, len(ordered)))


def _gaps(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """From each to the next. numpy's own `diff` takes as long as all else does with few values."""
    gaps: npt.NDArray[Any] = values[1:] - values[:-1]
    return gaps


def _are_whole(values: Floats) -> bool:
    return bool((np.rint(values) == values).all())


def _numbers(finite: Floats, distinct: Floats, times: npt.NDArray[np.intp]) -> Numbers:
    """Figures of finite numbers, at least one: the sorted distinct ones are there so many `times`."""
    edges = _edges(distinct)
    up_to = np.zeros(len(times) + 1, np.intp)
    times.cumsum(out=up_to[1:])
    below = up_to[distinct.searchsorted(edges, side="left")]
    below[-1] = len(finite)
    # The two in the middle; one and the same where the number is odd.
    middle = up_to.searchsorted([(len(finite) - 1) // 2, len(finite) // 2], side="right") - 1
    low, high = distinct[middle].tolist()
    return Numbers(
        edges=tuple(edges.tolist()),
        counts=tuple(_gaps(below).tolist()),
        min=float(distinct[0]) + 0.0,  # never -0
        mean=_mean(finite),
        # Halved first: the sum of two large numbers is infinite.
        median=low if low == high else low / 2 + high / 2,
        max=float(distinct[-1]),
    )


def _mean(values: Floats) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(values.mean())
    # Numbers near the largest there is overflow when they are summed up.
    return mean if np.isfinite(mean) else float((values / len(values)).sum())


def _edges(distinct: Floats) -> Floats:
    """At most MOST_BINS bins of one width over sorted distinct numbers; one without width for one number."""
    low, high = distinct[0], distinct[-1]
    if low == high:
        return np.array([low, high])
    # A grid has as many points as there are numbers, or more.
    on_grid = _grid_edges(distinct) if len(distinct) <= FINEST_GRID else None
    if on_grid is not None:
        return on_grid
    # Halved, because the range itself may be infinite.
    edges = np.linspace(low / 2, high / 2, MOST_BINS + 1) * 2
    edges[0], edges[-1] = low, high
    return edges


def _grid_edges(distinct: Floats) -> Floats | None:
    """Edges between the points of the grid that the numbers lie on, or None without a coarse grid.

    Whole numbers (ages, flags, counts), scaled or not: bins that held now three, now four of them would
    show a comb that is not in the data.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        gaps = _gaps(distinct)
        unit = gaps.min()
        points = (distinct[-1] - distinct[0]) / unit + 1
        if not points <= FINEST_GRID + 0.5 or (np.abs(gaps / unit - np.rint(gaps / unit)) > 1e-6).any():
            return None
        per_bin = np.ceil(np.rint(points) / MOST_BINS)
        bins = int(np.ceil(np.rint(points) / per_bin))
        edges: Floats = distinct[0] - unit / 2 + np.arange(bins + 1) * per_bin * unit
    return edges if np.isfinite(edges).all() else None


def _of_values(name: str, series: pd.Series, kind: Kind | None) -> ColumnProfile:
    try:
        places, found = factorized(series)
    except TypeError:
        places, found = pd.factorize(series.dropna().astype(str))
    # A gap's place is -1.
    counts = np.bincount(places[places >= 0], minlength=len(found))
    present, distinct = int(counts.sum()), len(found)
    if kind is None:
        kind = "category" if 0 < distinct <= min(MOST_CATEGORIES, present / 2) else "text"
    frequent = None
    if present:
        # Stable: of equals the first one comes first.
        first = np.argsort(-counts, kind="stable")[:MOST_VALUES]
        rows = counts[first].tolist()
        values = tuple(zip((short(v, LONGEST_VALUE) for v in found[first]), rows, strict=True))
        frequent = Frequent(values, present - sum(rows))
    return ColumnProfile(name, kind, len(series) - present, min(distinct, MOST_DISTINCT + 1), frequent)
