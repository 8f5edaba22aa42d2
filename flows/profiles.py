"""What is in a frame, in figures: those of the quality report. Pure pandas and numpy."""

import itertools

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

Floats = npt.NDArray[np.float64]

MOST_BINS = 20
MOST_VALUES = 8
MOST_CATEGORIES = 50
"""Text with at most so many distinct values, on average found twice, is a category."""
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
    # Sorted once, everything else is quick: distinct values, median, bins. Gaps come last.
    ordered = np.sort(values)
    first = ordered.searchsorted(-np.inf, side="right")
    end, present = ordered.searchsorted([np.inf, np.nan])
    finite = ordered[first:end]
    is_new = np.empty(len(finite), dtype=bool)
    is_new[:1] = True
    np.not_equal(finite[1:], finite[:-1], out=is_new[1:])
    different = finite[is_new]
    distinct = len(different) + int(first > 0) + int(present > end)
    return ColumnProfile(
        name,
        "number",
        missing=len(values) - int(present),
        distinct=min(distinct, MOST_DISTINCT + 1),
        distribution=_numbers(finite, different) if len(finite) else None,
        infinite=int(first + present - end),
    )


def _numbers(ordered: Floats, distinct: Floats) -> Numbers:
    """Figures of sorted finite numbers, at least one, and the distinct ones among them."""
    edges = _edges(distinct)
    inner = np.searchsorted(ordered, edges[1:-1], side="left")
    counts = np.diff(inner, prepend=0, append=len(ordered))
    middle = len(ordered) // 2
    low, high = float(ordered[(len(ordered) - 1) // 2]), float(ordered[middle])
    return Numbers(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        min=float(ordered[0]) + 0.0,  # never -0
        mean=_mean(ordered),
        # Halved first: the sum of two large numbers is infinite.
        median=low if low == high else low / 2 + high / 2,
        max=float(ordered[-1]),
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
    on_grid = _grid_edges(distinct)
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
        gaps = np.diff(distinct)
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
        places, found = pd.factorize(series)
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
