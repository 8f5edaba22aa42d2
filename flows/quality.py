"""What is in a frame, in figures: those of the quality report. Pure pandas and numpy."""

import itertools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from dropflow.objects import printable
from dropflow.receipts import StepDone

Kind = Literal["number", "category", "text", "datetime", "boolean"]
Floats = npt.NDArray[np.float64]

MOST_COLUMNS = 60
MOST_BINS = 20
MOST_VALUES = 8
MOST_DISTINCT = 1_000
"""What has more distinct values is told as 'more than 1,000'; nobody needs them exactly."""
MOST_CATEGORIES = 50
"""Text with at most so many distinct values, on average found twice, is a category."""
LONGEST_NAME, LONGEST_VALUE = 80, 60
FINEST_GRID = 1_000
"""Values on a grid of more points than this fill bins evenly enough wherever these begin."""

_NUMBERS = {"integer", "floating", "mixed-integer-float", "decimal"}
_INFERRED: dict[str, Kind] = {
    "boolean": "boolean",
    "datetime64": "datetime",
    "datetime": "datetime",
    "date": "datetime",
}


@dataclass(frozen=True, slots=True)
class Numbers:
    """The finite numbers of a column.

    `counts[i]` of them are from `edges[i]` on and below `edges[i + 1]`, the last edge included: there is
    one edge more than counts, and edges never fall. A column of one value has a single bin without width.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    min: float
    mean: float
    median: float
    max: float


@dataclass(frozen=True, slots=True)
class Frequent:
    """The most frequent values of a column, most frequent first, as printable text; rows of all others."""

    values: tuple[tuple[str, int], ...]
    others: int


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column. `distinct` does not count missing values, and stops at MOST_DISTINCT + 1.

    `distribution` is None where there is nothing to show: no value at all, or only infinite ones.
    """

    name: str
    kind: Kind
    missing: int
    distinct: int
    distribution: Numbers | Frequent | None
    infinite: int = 0

    @property
    def distinct_text(self) -> str:
        return f"more than {MOST_DISTINCT:,}" if self.distinct > MOST_DISTINCT else f"{self.distinct:,}"


@dataclass(frozen=True, slots=True)
class FrameProfile:
    """`columns` are the frame's first MOST_COLUMNS in their order; `left_out` is how many came after."""

    rows: int
    columns: tuple[ColumnProfile, ...]
    left_out: int = 0


class Quarantined(NamedTuple):
    """Rows set aside for one reason; `example` is the first of them as text, line breaks between rows."""

    reason: str
    rows: int
    example: str


@dataclass(frozen=True, slots=True)
class DriftLine:
    """How far a column is from the reference: population stability index, Kolmogorov-Smirnov statistic.

    Each is None where it does not apply.
    """

    column: str
    psi: float | None
    ks: float | None
    flagged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """All there is to tell about one prepared file. Texts may be hostile: renderers must escape them.

    `after` has no columns where nothing was prepared; `preprocessor` is the version of the stored one
    that was applied ('v3'), '' where the file was fitted on its own; `seconds` is for the whole file.
    """

    dataset: str
    url: str
    output_url: str = ""
    run_id: str = ""
    rows_in: int
    rows_out: int
    quarantined: tuple[Quarantined, ...] = ()
    filtered: int = 0
    before: FrameProfile
    after: FrameProfile
    steps: tuple[StepDone, ...] = ()
    drift: tuple[DriftLine, ...] = ()
    warnings: tuple[str, ...] = ()
    preprocessor: str = ""
    seconds: float = 0.0

    @property
    def quarantined_rows(self) -> int:
        return sum(entry.rows for entry in self.quarantined)


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


def short(value: object, limit: int) -> str:
    """Any value as printable text of at most `limit` characters, however large it is."""
    try:
        text = value if isinstance(value, str) else str(value)
    except ValueError:
        # Python refuses to print whole numbers of more than 4,300 digits.
        text = f"a huge {type(value).__name__}"
    if len(text) > 2 * limit:
        # Ends are enough for `printable`, which looks at every character.
        text = text[:limit] + text[-limit:]
    # Nearly all text is fine as it is, and this much sooner told.
    return text if len(text) <= limit and text.isprintable() else printable(text, limit)


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
