"""Drift: how far the columns of a file are from those a preprocessor was fitted on. Pure."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field
from scipy import stats

from dropflow.columns import Strict
from dropflow.datasets import Drift
from dropflow.quality import DriftLine

Floats = npt.NDArray[np.float64]

SAMPLE = 1000
"""Quantiles kept of a column of numbers: they stand for its distribution, to 0.001 of KS."""
MOST_VALUES = 200
BINS = 10
CHANCE = 0.01
"""Drift that comes about by chance alone this often is none: in small files much does."""


class ColumnReference(Strict):
    """A column as it was: sorted quantiles of its numbers, or shares of its values; and of gaps."""

    rows: int
    gaps: float
    quantiles: tuple[float, ...] = ()
    shares: dict[str, float] = Field(default_factory=dict)


def learn(frame: pd.DataFrame) -> dict[str, ColumnReference]:
    """What `compare` needs to know of each column later; datetimes only move on, and are left out."""
    return {
        str(name): _learn(frame[name])
        for name in frame.columns
        if frame[name].dtype.kind != "M" and len(frame)
    }


def _learn(series: pd.Series) -> ColumnReference:
    values = series.dropna()
    gaps = 1 - len(values) / len(series)
    if series.dtype.kind in "fiub":
        grid = np.linspace(0, 1, min(SAMPLE, len(values)) or 1)
        finite = values.to_numpy(dtype=float)
        quantiles = np.quantile(finite, grid, method="inverted_cdf") if len(finite) else []
        return ColumnReference(rows=len(series), gaps=gaps, quantiles=tuple(map(float, quantiles)))
    counts = values.astype(str).value_counts()
    if len(counts) > MOST_VALUES:
        # Names and free text: none of their values says anything.
        return ColumnReference(rows=len(series), gaps=gaps)
    shares = {str(value): float(count / len(series)) for value, count in counts.items()}
    return ColumnReference(rows=len(series), gaps=gaps, shares=shares)


def compare(reference: Mapping[str, ColumnReference], frame: pd.DataFrame, limits: Drift) -> list[DriftLine]:
    """PSI of each column, with gaps as a bin of their own, and KS of numbers; the flagged ones first.

    A column is flagged above a limit, unless so much comes about by chance in files of these sizes.
    """
    lines = [
        _compare(str(name), reference[str(name)], frame[name], limits)
        for name in frame.columns
        if str(name) in reference and (reference[str(name)].quantiles or reference[str(name)].shares)
    ]
    return sorted(lines, key=lambda line: (not line.flagged, -(line.psi or 0)))


def _compare(name: str, known: ColumnReference, series: pd.Series, limits: Drift) -> DriftLine:
    before, after = _numeric_shares(known, series) if known.quantiles else _value_shares(known, series)
    psi = float(np.sum((after - before) * np.log(after / before)))
    # PSI's distribution without drift: (1/n + 1/m) times chi-squared (Yurdakul 2018, "Statistical
    # properties of the population stability index").
    noise = (1 / known.rows + 1 / len(series)) * stats.chi2.ppf(1 - CHANCE, max(1, len(before) - 1))
    flagged = psi > max(limits.psi, noise)
    ks = None
    if known.quantiles and series.notna().any():
        test = stats.ks_2samp(known.quantiles, series.dropna(), method="asymp")
        ks = float(test.statistic)
        flagged |= bool(ks > limits.ks and test.pvalue < CHANCE)
    return DriftLine(name, round(psi, 4), None if ks is None else round(ks, 4), bool(flagged))


def _numeric_shares(known: ColumnReference, series: pd.Series) -> tuple[Floats, Floats]:
    sample = np.array(known.quantiles)
    edges = np.unique(np.quantile(sample, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf"))
    values = series.dropna().to_numpy(dtype=float)
    inner, outer = (
        np.bincount(np.searchsorted(edges, found), minlength=len(edges) + 1) for found in (sample, values)
    )
    before = np.append(inner / len(sample) * (1 - known.gaps), known.gaps)
    after = np.append(outer, series.isna().sum()) / len(series)
    return _smoothed(before, known.rows), _smoothed(after, len(series))


def _value_shares(known: ColumnReference, series: pd.Series) -> tuple[Floats, Floats]:
    counts = series.dropna().astype(str).value_counts() / len(series)
    before = np.array([*known.shares.values(), 0.0, known.gaps])
    now = [float(counts.get(value, 0.0)) for value in known.shares]
    gaps = float(series.isna().mean())
    after = np.array([*now, max(0.0, 1 - gaps - sum(now)), gaps])
    return _smoothed(before, known.rows), _smoothed(after, len(series))


def _smoothed(shares: Floats, rows: int) -> Floats:
    """As if half a row more were in every bin: PSI has a logarithm of an empty one's share."""
    return (shares * rows + 0.5) / (rows + 0.5 * len(shares))
