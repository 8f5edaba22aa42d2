"""Fitting one transformer on rows that come part by part: exactly where sums and counts are enough.

Else on rows drawn evenly from all, SAMPLE / 2 of them at least: by the Dvoretzky-Kiefer-Wolfowitz inequality
(Massart 1990, doi:10.1214/aop/1176990746) the share of rows below a quantile learnt from them is off by at
most BOUND, with a probability of 0.999.
"""

import itertools
import math
from collections import Counter
from typing import Any, Protocol

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from dropflow.errors import RejectedError
from flows.transformers import Encoder, taken

SAMPLE = 1_000_000
BOUND = math.sqrt(math.log(2 / 0.001) / SAMPLE)
"""0.003 of the rows."""
MOST_DISTINCT = 100_000
"""Values that are counted, each exactly; a number that has more is sampled."""


class Learner(Protocol):
    """Sees all rows, unless it needs none, and gives a fitted transformer."""

    @property
    def needs_rows(self) -> bool: ...

    @property
    def is_exact(self) -> bool: ...

    def add(self, rows: pd.DataFrame, target: pd.Series | None) -> None: ...

    def fitted(self) -> Any: ...


def learner(names: list[str], transformer: Any) -> Learner:
    """What fits the transformer on these columns."""
    if isinstance(transformer, StandardScaler | MinMaxScaler):
        return Mergeable(names, transformer)
    if isinstance(transformer, SimpleImputer):
        return Statistic(names, transformer)
    if isinstance(transformer, Encoder) and transformer.how in ("onehot", "ordinal"):
        return Distinct(names, transformer)
    return Sampled(names, transformer)


class Mergeable:
    """scikit-learn's own `partial_fit`."""

    is_exact = needs_rows = True

    def __init__(self, names: list[str], transformer: Any) -> None:
        self._names = names
        self._transformer = clone(transformer)
        self._empty = set(names)

    def add(self, rows: pd.DataFrame, target: pd.Series | None) -> None:  # noqa: ARG002
        self._empty -= {name for name in self._empty if rows[name].notna().any()}
        self._transformer.partial_fit(taken(self._transformer, rows, self._names))

    def fitted(self) -> Any:
        for name in self._names:
            if name in self._empty:
                raise RejectedError(f"column {name} has no value at all: nothing to scale")
        return self._transformer


class Statistic:
    """An imputer: fitted on the one value that it would have learnt."""

    def __init__(self, names: list[str], imputer: SimpleImputer) -> None:
        (self._name,) = names
        self._imputer = imputer
        self._sum, self._rows = 0.0, 0
        self._counts: Counter[Any] | None = Counter()
        self._sampled = Sampled(names, imputer)

    @property
    def needs_rows(self) -> bool:
        return bool(self._imputer.strategy != "constant")

    @property
    def is_exact(self) -> bool:
        return self._imputer.strategy in ("constant", "mean") or self._counts is not None

    def add(self, rows: pd.DataFrame, target: pd.Series | None) -> None:
        values = rows[self._name].dropna()
        self._rows += len(values)
        if self._imputer.strategy == "mean":
            self._sum += float(values.sum())
        elif self._imputer.strategy != "constant":
            if self._counts is None:
                self._sampled.add(rows, target)
            else:
                self._counts.update(values.value_counts().to_dict())
                if len(self._counts) > MOST_DISTINCT:
                    self._draw()

    def _draw(self) -> None:
        """Go on with rows drawn, of those that were counted as well."""
        counts, self._counts = self._counts or Counter(), None
        values = counts.elements()
        while few := list(itertools.islice(values, SAMPLE)):
            self._sampled.add(pd.DataFrame({self._name: few}), None)

    def fitted(self) -> Any:
        strategy = self._imputer.strategy
        if strategy == "constant":
            return self._of(self._imputer.fill_value)
        if not self._rows:
            raise RejectedError(f"column {self._name} has no value at all: nothing to impute it from")
        if strategy == "mean":
            return self._of(self._sum / self._rows)
        if self._counts is None:
            return self._sampled.fitted()
        return self._of(_median(self._counts) if strategy == "median" else _mode(self._counts))

    def _of(self, value: Any) -> Any:
        kind = object if isinstance(value, str) else None
        return clone(self._imputer).fit(np.array([[value]], dtype=kind))


class Distinct:
    """An encoder that needs to know which values there are."""

    is_exact = True

    def __init__(self, names: list[str], encoder: Encoder) -> None:
        (self._name,) = names
        self._encoder = encoder
        self._values: set[Any] = set()

    @property
    def needs_rows(self) -> bool:
        return not self._encoder.categories

    def add(self, rows: pd.DataFrame, target: pd.Series | None) -> None:  # noqa: ARG002
        if not self._encoder.categories:
            self._values.update(rows[self._name].dropna().unique())
            if len(self._values) > MOST_DISTINCT:
                raise RejectedError(
                    f"column {self._name} has more than {MOST_DISTINCT:,} different values: encode it by "
                    "target or frequency"
                )

    def fitted(self) -> Any:
        values: list[Any] = list(self._encoder.categories or sorted(self._values))
        return clone(self._encoder).fit(pd.DataFrame({self._name: values or [np.nan]}))


class Sampled:
    """Any transformer: fitted on rows drawn evenly, in the order of the file."""

    needs_rows = True

    def __init__(self, names: list[str], transformer: Any) -> None:
        self._names = names
        self._transformer = transformer
        self._draw = np.random.default_rng(0)
        self._kept: list[tuple[pd.DataFrame, pd.Series | None, Any]] = []
        self._rows, self._share = 0, 1.0

    @property
    def is_exact(self) -> bool:
        return self._share == 1.0

    def add(self, rows: pd.DataFrame, target: pd.Series | None) -> None:
        """Each row has a random place; those below a share stay, which falls as the rows come."""
        places = self._draw.random(len(rows))
        self._kept.append(
            (*_where(rows[self._names], target, places < self._share), places[places < self._share])
        )
        self._rows += int((places < self._share).sum())
        while self._rows > SAMPLE:
            self._share /= 2
            self._kept = [
                (*_where(part, goal, at < self._share), at[at < self._share]) for part, goal, at in self._kept
            ]
            self._rows = sum(len(part) for part, _, _ in self._kept)

    def fitted(self) -> Any:
        rows = pd.concat([part for part, _, _ in self._kept])
        goals = [goal for _, goal, _ in self._kept if goal is not None]
        for name in self._names:
            if rows[name].isna().all():
                raise RejectedError(f"column {name} has no value at all: nothing to learn from it")
        columns = taken(self._transformer, rows, self._names)
        return clone(self._transformer).fit(columns, pd.concat(goals) if goals else None)


def _where(rows: pd.DataFrame, target: pd.Series | None, keep: Any) -> tuple[pd.DataFrame, pd.Series | None]:
    return rows[keep], None if target is None else target[keep]


def _median(counts: Counter[Any]) -> float:
    """As of the values written out: of an even number, the mean of the two in the middle."""
    values = np.array(sorted(counts))
    below = np.cumsum([counts[value] for value in values])
    low, high = ((below[-1] - 1) // 2, below[-1] // 2)
    first, second = (float(values[np.searchsorted(below, place, side="right")]) for place in (low, high))
    return first if first == second else (first + second) / 2


def _mode(counts: Counter[Any]) -> Any:
    """The most frequent value; of equals the smallest, as scikit-learn has it."""
    most = max(counts.values())
    return min(value for value, number in counts.items() if number == most)
