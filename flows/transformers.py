"""scikit-learn transformers for the steps that scikit-learn has none for. Frames in, frames out.

They follow scikit-learn's rules (nothing learnt outside `fit`, learnt attributes end in `_`) and hold
plain values, arrays and scikit-learn's own transformers only, so that skops can store them.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import groupby
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import infer_dtype, is_extension_array_dtype, is_numeric_dtype
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_selection import f_classif, f_regression, mutual_info_classif, mutual_info_regression
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from dropflow.errors import RejectedError
from dropflow.objects import printable
from dropflow.recipes import DICT_SEPARATOR

MOST_COLUMNS = 20_000
"""That one step may make: a file of more is of no use to anybody."""
FEW_CLASSES = 20
"""A target of whole numbers with no more values than that is taken for classes."""
FEW_VALUES = 50
"""Of a category, distinct in one file: what they are encoded as is remembered."""
PARTS = {"weekday": "day_of_week", "dayofyear": "day_of_year"}
"""pandas' names, where they are others."""
SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}


class _Framewise(TransformerMixin, BaseEstimator):
    """Gives frames by itself: for scikit-learn to see to that would take 1 ms a step."""

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(auto_wrap_output_keys=None, **named)


class _Stateless(_Framewise):
    """Learns nothing."""

    def fit(self, X: pd.DataFrame, y: pd.Series | None = None) -> Self:  # noqa: ARG002, N803
        self.fitted_ = True
        return self


class Columnwise(_Framewise):
    """Apply transformers to some columns; the others stay as they are and where they are.

    `parts`: pairs of column names and a transformer: one of ours, or one of scikit-learn's that gives as
    many columns. New columns stand where the first of their sources stood. A part whose column is missing
    is left out if that is the target: the data to predict for has none.
    """

    def __init__(self, parts: list[tuple[list[str], Any]], target: str | None = None) -> None:
        self.parts = parts
        self.target = target

    def fit(self, X: pd.DataFrame, y: pd.Series | None = None) -> Self:  # noqa: N803
        self.fitted_ = [_fitted(one, X, names, y) for names, one in self.parts]
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        changed: dict[str, Any] = {}
        made: dict[str, pd.DataFrame] = {}
        for (names, _), transformer in zip(self.parts, self.fitted_, strict=True):
            if names == [self.target] and self.target not in X.columns:
                continue
            if isinstance(transformer, SimpleImputer) and _is_plain(X[names[0]]):
                # What it does, without taking texts for objects and back.
                changed[names[0]] = X[names[0]].fillna(transformer.statistics_[0])
                continue
            result = transformer.transform(taken(transformer, X, names))
            if not isinstance(transformer, _FRAMES):
                # One that an earlier version has stored gives a frame with an index of its own.
                array = np.asarray(result)
                changed |= {name: array[:, place] for place, name in enumerate(names)}
            elif list(result.columns) == names:
                changed |= {name: result[name] for name in names}
            else:
                made |= {name: result if name == names[0] else result[[]] for name in names}
        frame = X.copy(deep=False)
        for name, column in changed.items():
            frame[name] = column
        return joined(list(_in_order(frame, made))) if made else frame

    def unknown(self, X: pd.DataFrame) -> dict[str, int]:  # noqa: N803
        """Number of values, by column, of categories that were not there to be fitted on."""
        return {
            names[0]: count
            for (names, _), transformer in zip(self.parts, self.fitted_, strict=True)
            if isinstance(transformer, Encoder | SparseOneHot) and names[0] in X.columns
            for count in [transformer.unknown(X[names[0]])]
            if count
        }


def _fitted(transformer: Any, frame: pd.DataFrame, names: list[str], y: pd.Series | None) -> Any:
    if isinstance(transformer, SimpleImputer):
        learnt = _statistic(transformer.strategy, frame[names[0]])
        if learnt is not None:
            return _imputer_of(transformer.strategy, learnt)
    return clone(transformer).fit(taken(transformer, frame, names), y)


def _statistic(strategy: str, series: pd.Series) -> str | float | None:
    """What an imputer would learn; None where that is left to the imputer, as what is long to remember."""
    if strategy == "most_frequent" and isinstance(series.dtype, pd.StringDtype):
        # Without taking all texts for objects.
        places, values = factorized(series)
        counts = np.bincount(places[places >= 0])
        mode = str(min(values[counts == counts.max()]))
        return mode if len(mode) <= LONGEST_NAME else None
    if strategy == "median" and series.dtype == float:
        numbers = series.to_numpy()
        return float(np.median(numbers[~np.isnan(numbers)]))
    return None


@lru_cache(maxsize=256)
def _imputer_of(strategy: str, learnt: str | float) -> SimpleImputer:
    """One that has learnt that, fitted on the value itself: many files of a run have the same."""
    value = np.array([[learnt]], dtype=object if isinstance(learnt, str) else float)
    return SimpleImputer(strategy=strategy).fit(value)


def taken(transformer: Any, frame: pd.DataFrame, names: list[str]) -> Any:
    """The columns as the transformer takes them: scikit-learn's own need 1 ms more for a frame."""
    if isinstance(transformer, _FRAMES):
        if len(names) > 1:
            return frame[names]
        # By place: by name takes three times as long.
        place = frame.columns.get_loc(names[0])
        assert isinstance(place, int)
        return frame.iloc[:, place : place + 1]
    # Column by column in memory, as reductions and whoever reads single columns afterwards like it.
    return np.stack([array(frame[name]) for name in names]).T


def array(series: pd.Series) -> npt.NDArray[Any]:
    """Whole numbers, booleans, and pandas' own kinds of numbers as floats: all that know gaps."""
    if series.dtype.kind in "biu" or (is_extension_array_dtype(series.dtype) and is_numeric_dtype(series)):
        return series.to_numpy(dtype=float, na_value=np.nan)
    return series.to_numpy()


def gaps_of(series: pd.Series) -> npt.NDArray[np.bool_]:
    """Where values are missing."""
    # pandas takes five times the time for a column of plain numbers.
    if series.dtype == float:
        gaps: npt.NDArray[np.bool_] = np.isnan(series.to_numpy())
        return gaps
    if is_whole(series):
        return np.zeros(len(series), dtype=bool)
    return series.isna().to_numpy()


def is_whole(series: pd.Series) -> bool:
    """Whether these are plain whole numbers, which know no gaps."""
    return isinstance(series.dtype, np.dtype) and series.dtype.kind in "iu"


def factorized(series: pd.Series) -> tuple[npt.NDArray[np.intp], Any]:
    """The place of each row's value among the distinct ones, -1 of a gap; and these, as they come.

    Raises TypeError for what does not hash.
    """
    # Of texts, the values alone: for an index of what is found, pandas takes as long again.
    return pd.factorize(series.array if isinstance(series.dtype, pd.StringDtype) else series)


def _is_plain(series: pd.Series) -> bool:
    return series.dtype == float or isinstance(series.dtype, pd.StringDtype)


def _in_order(frame: pd.DataFrame, made: Mapping[str, pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """What was made where its source stood, between the runs of columns that nobody touched."""
    for untouched, run in groupby(enumerate(frame.columns), lambda column: column[1] not in made):
        places, names = zip(*run, strict=True)
        if untouched:
            # By place: by name takes twice the time.
            yield frame.iloc[:, places[0] : places[-1] + 1]
        else:
            yield from (made[name] for name in names)


def joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The frames' columns side by side; all have the same rows. Raises RejectedError on equal names."""
    result = pd.concat(frames, axis=1)
    if any(frame.columns.dtype == object for frame in frames):
        # pandas makes names of another kind of plain ones.
        result.columns = result.columns.astype(object)
    if result.shape[1] > MOST_COLUMNS:
        raise RejectedError(
            f"would have {result.shape[1]:,} columns: more than {MOST_COLUMNS:,} are not made"
        )
    return distinct(result)


def distinct(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame itself. Raises RejectedError where two columns have one name."""
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise RejectedError(f"would have two columns of the name {printable(str(twice), 60)}: rename one")
    return frame


class Drop(_Stateless):
    """Leave out columns; the target may be missing."""

    def __init__(self, columns: list[str]) -> None:
        self.columns = columns

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        return X.drop(columns=[name for name in self.columns if name in X.columns])


class Rename(_Stateless):
    """Give columns new names."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        return distinct(X.rename(columns=self.names))


class Cast(_Stateless):
    """Change columns' types: number, category, text, datetime, boolean."""

    def __init__(self, types: dict[str, str]) -> None:
        self.types = types

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        casts = {name: cast(X[name], kind) for name, kind in self.types.items() if name in X.columns}
        return X.assign(**casts)


def cast(series: pd.Series, kind: str) -> pd.Series:
    """The series as another type, gaps kept. Raises RejectedError naming the first value that is none."""
    if kind == "number":
        seconds = series.dtype.kind == "M"
        done = (series - pd.Timestamp(0)).dt.total_seconds() if seconds else to_numbers(series)
    elif kind == "datetime":
        done = to_datetimes(series, None)
    elif kind == "boolean":
        done = to_booleans(series)
    else:
        done = to_texts(series)
    bad = done.isna() & series.notna()
    if bad.any():
        first = int(bad.to_numpy().argmax())
        value = printable(repr(series.iloc[first]), 40)
        raise RejectedError(f"column {series.name}: {value} in data row {first + 1} is no {kind}")
    return done


def to_numbers(series: pd.Series) -> pd.Series:
    """Floats; what is no number becomes a gap."""
    if series.dtype == bool or is_whole(series):
        return series.astype(float)
    return pd.to_numeric(series, errors="coerce").astype(float)


def to_datetimes(series: pd.Series, form: str | None) -> pd.Series:
    """Datetimes in microseconds without zone, in UTC if they had one; what is none becomes a gap.

    `form`: as of strftime, ISO 8601 unless given.
    """
    times: pd.Series = series
    if series.dtype.kind != "M":
        times = pd.to_datetime(series, format=form or "ISO8601", errors="coerce", utc=True)
    if isinstance(times.dtype, pd.DatetimeTZDtype):
        times = times.dt.tz_convert("UTC").dt.tz_localize(None)
    # Whatever the file had: the next one is to have the same type.
    return times.astype("datetime64[us]")


LARGEST_WHOLE = 2.0**53
"""Up to which every whole number is a float; beyond, a float's digits are not those of the file."""
TRUE, FALSE = ("true", "yes", "1", "t", "y", "1.0"), ("false", "no", "0", "f", "n", "0.0")


def to_booleans(series: pd.Series) -> pd.Series:
    """1.0 and 0.0, a float as gaps need one; what is neither becomes a gap."""
    if series.dtype == bool:
        return series.astype(float)
    words = series.astype(object).map(lambda value: str(value).strip().lower(), na_action="ignore")
    return words.map({**dict.fromkeys(TRUE, 1.0), **dict.fromkeys(FALSE, 0.0)}).astype(float)


def to_texts(series: pd.Series) -> pd.Series:
    """Text as plain objects with NaN for gaps: what scikit-learn's imputers and encoders expect.

    A value's text does not depend on the others: a whole number has no fraction, whatever its type.
    """
    if isinstance(series.dtype, pd.StringDtype):
        plain = series.to_numpy(dtype=object, na_value=np.nan)
        return pd.Series(plain, index=series.index, name=series.name, dtype=object)
    texts = series.astype(object)
    if infer_dtype(texts, skipna=True) != "string":
        texts = texts.map(_to_text, na_action="ignore")
    return texts.where(series.notna(), np.nan).astype(object)


def _to_text(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_WHOLE
    return str(int(value)) if whole else str(value)


class Derive(_Stateless):
    """New columns, at the end: differences, ratios, concatenations, parts of dates."""

    def __init__(self, columns: dict[str, dict[str, Any]]) -> None:
        self.columns = columns

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        made = [pd.DataFrame(_derived(name, how, X), index=X.index) for name, how in self.columns.items()]
        return joined([X, *made])


def _derived(name: str, how: Mapping[str, Any], frame: pd.DataFrame) -> dict[str, pd.Series]:
    if how.get("difference"):
        first, second = (frame[column] for column in how["difference"])
        difference = first - second
        if difference.dtype.kind == "m":
            difference = difference.dt.total_seconds() / SECONDS[how["unit"]]
        return {name: difference.astype(float)}
    if how.get("ratio"):
        first, second = (frame[column].astype(float) for column in how["ratio"])
        return {name: first / second.where(second != 0)}
    if how.get("concat"):
        texts = [to_texts(frame[column]) for column in how["concat"]]
        return {name: texts[0].str.cat(pd.concat(texts[1:], axis=1), sep=how["separator"]).astype(object)}
    times = frame[how["of"]].dt
    return {f"{name}_{part}": getattr(times, PARTS.get(part, part)).astype(float) for part in how["parts"]}


class Filter(_Stateless):
    """Keep the rows that hold all conditions. The index tells which rows are left."""

    def __init__(self, conditions: dict[str, dict[str, Any]]) -> None:
        self.conditions = conditions

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        keep = pd.Series(data=True, index=X.index)
        for name, condition in self.conditions.items():
            if name in X.columns:
                keep &= _holds(X[name], condition)
        return X[keep]


def _holds(series: pd.Series, condition: Mapping[str, Any]) -> pd.Series:
    holds = series.notna()
    if condition.get("min") is not None:
        holds &= series >= condition["min"]
    if condition.get("max") is not None:
        holds &= series <= condition["max"]
    if condition.get("values") is not None:
        holds &= series.isin(list(condition["values"]))
    return holds | series.isna() if condition.get("gaps") == "keep" else holds


class ClipOutliers(_Framewise):
    """Move what lies outside the bounds onto them; bounds are given or learnt."""

    def __init__(
        self,
        min: float | None = None,  # noqa: A002 - the YAML's word
        max: float | None = None,  # noqa: A002
        quantiles: tuple[float, float] | None = None,
        iqr: float | None = None,
    ) -> None:
        self.min = min
        self.max = max
        self.quantiles = quantiles
        self.iqr = iqr

    def fit(self, X: pd.DataFrame, y: pd.Series | None = None) -> Self:  # noqa: ARG002, N803
        if self.quantiles:
            bounds = X.quantile(list(self.quantiles))
            self.low_, self.high_ = bounds.iloc[0].to_numpy(), bounds.iloc[1].to_numpy()
        elif self.iqr:
            low, high = (X.quantile(q).to_numpy() for q in (0.25, 0.75))
            self.low_, self.high_ = low - self.iqr * (high - low), high + self.iqr * (high - low)
        else:
            self.low_ = np.full(X.shape[1], -np.inf if self.min is None else self.min)
            self.high_ = np.full(X.shape[1], np.inf if self.max is None else self.max)
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        return X.astype(float).clip(self.low_, self.high_, axis=1)


class Encoder(_Framewise):
    """A category becomes numbers, by scikit-learn's encoders; it knows what it was fitted on.

    onehot: a column a category, all 0 for gaps and unknown ones. ordinal: its place, -1 for unknown ones.
    target: the target's smoothed mean, as scikit-learn's TargetEncoder (without cross-fitting, so that
    training and serving agree). frequency: its share of the rows fitted on, 0 for unknown ones.
    """

    def __init__(self, how: str, categories: list[str] | None = None) -> None:
        self.how = how
        self.categories = categories

    def fit(self, X: pd.DataFrame, y: pd.Series | None = None) -> Self:  # noqa: N803
        (name,) = X.columns
        self.categories_ = self.categories or _categories(X[name])
        if not self.categories_:
            raise RejectedError(f"column {name} has no value at all: nothing to encode")
        if self.how == "onehot":
            check_names(name, self.categories_)
        if self.how == "frequency":
            counts = to_texts(X[name]).value_counts(dropna=False)
            self.gaps_ = float(X[name].isna().sum()) / len(X)
            self.shares_ = (counts.reindex(self.categories_).fillna(0) / len(X)).to_numpy(dtype=float)
        elif self.how == "target":
            assert y is not None
            # A target of whole numbers would be taken for classes.
            kind = "continuous" if is_numeric_dtype(y) else "auto"
            values, places = _distinct(X[name])
            self.encoder_ = TargetEncoder(target_type=kind).fit(values[places], y)
        else:
            self.encoder_ = _encoder_of(self.how, tuple(self.categories_))
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        (name,) = X.columns
        if self.how == "frequency":
            shares = dict(zip(self.categories_, self.shares_, strict=True))
            found = to_texts(X[name]).map(shares).astype(float).fillna(0.0)
            return found.where(X[name].notna(), self.gaps_).to_frame(name)
        values, places = _distinct(X[name])
        encoded, names = self._encoded(name, values)
        return pd.DataFrame(encoded[places], index=X.index, columns=names)

    def _encoded(self, name: str, values: npt.NDArray[np.object_]) -> tuple[npt.NDArray[Any], Any]:
        """The values as numbers, shape (values, columns), and the columns' names."""
        few = self.how != "target" and max(len(values), len(self.categories_)) <= FEW_VALUES
        if few and max(map(len, values[:, 0])) <= LONGEST_NAME:
            return _encoded_before(self.how, tuple(self.categories_), name, tuple(values[:, 0]))
        return np.asarray(self.encoder_.transform(values)), self.encoder_.get_feature_names_out([name])

    def unknown(self, series: pd.Series) -> int:
        return int((~to_texts(series).isin(self.categories_) & series.notna()).sum())


@lru_cache(maxsize=64)
def _encoder_of(how: str, categories: tuple[str, ...]) -> Any:
    """scikit-learn's, which has nothing to learn where the categories are given: for all files of a run."""
    given = np.array(categories, dtype=object)
    if how == "onehot":
        encoder = OneHotEncoder(categories=[given], sparse_output=False, handle_unknown="ignore")
    else:
        encoder = OrdinalEncoder(categories=[given], handle_unknown="use_encoded_value", unknown_value=-1)
    return encoder.fit(given[:, np.newaxis])


@lru_cache(maxsize=256)
def _encoded_before(
    how: str, categories: tuple[str, ...], name: str, values: tuple[str, ...]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.object_]]:
    """As `Encoder._encoded`: scikit-learn takes 0.3 ms to encode the same few values anew for each file."""
    encoder = _encoder_of(how, categories)
    encoded: npt.NDArray[Any] = np.asarray(encoder.transform(np.array(values, dtype=object)[:, np.newaxis]))
    return encoded, encoder.get_feature_names_out([name])


GAP = "\0gap"
"""Stands for a gap, which some encoders refuse."""
LONGEST_NAME = 200
"""Characters of a category that becomes a column."""


def check_names(column: str, categories: list[str]) -> None:
    """Raises RejectedError where there are too many categories, or too long ones, to be columns."""
    if len(categories) > MOST_COLUMNS:
        raise RejectedError(
            f"column {column}: {len(categories):,} categories would make as many columns, and more than "
            f"{MOST_COLUMNS:,} are not made: encode by target or frequency"
        )
    longest = max(categories, key=len, default="")
    if len(longest) > LONGEST_NAME:
        raise RejectedError(
            f"column {column}: the category {printable(repr(longest), 40)} has {len(longest):,} characters: "
            f"no name of a column (at most {LONGEST_NAME}); encode by ordinal, target or frequency"
        )


def _distinct(series: pd.Series) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.intp]]:
    """The distinct values as texts and GAP, shape (values + 1, 1), and the place of each row's among them."""
    places, found = factorized(series)
    texts = found if isinstance(series.dtype, pd.StringDtype) else to_texts(pd.Series(found))
    # A gap's place is -1: the last.
    return np.array([*texts, GAP], dtype=object)[:, np.newaxis], places


def _categories(series: pd.Series) -> list[str]:
    """Sorted, as numbers where they are numbers."""
    return list(to_texts(pd.Series(sorted(series.dropna().unique()))))


class FixedBins(_Framewise):
    """A number becomes the number of edges that are not above it."""

    def __init__(self, edges: list[float]) -> None:
        self.edges = edges

    def fit(self, X: pd.DataFrame, y: pd.Series | None = None) -> Self:  # noqa: ARG002, N803
        self.edges_ = np.array(self.edges, dtype=float)
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        binned: pd.DataFrame = X.apply(
            lambda column: np.searchsorted(self.edges_, column, side="right").astype(float)
        )
        return binned


class SparseOneHot(_Framewise):
    """scikit-learn's dict-vectorizer on columns of many categories: sparse columns `name=value`."""

    def fit(self, X: pd.DataFrame, y: pd.Series | None = None) -> Self:  # noqa: ARG002, N803
        self.vectorizer_ = DictVectorizer(sparse=True, dtype=np.float32, separator=DICT_SEPARATOR)
        (name,) = X.columns
        check_names(name, _categories(X[name]))
        self.vectorizer_.fit(_dicts(X))
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        matrix = self.vectorizer_.transform(_dicts(X))
        names = self.vectorizer_.get_feature_names_out()
        made = pd.DataFrame.sparse.from_spmatrix  # type: ignore[attr-defined] # the stubs lack it
        frame: pd.DataFrame = made(matrix, index=X.index, columns=names)
        return frame

    def unknown(self, series: pd.Series) -> int:
        names = f"{series.name}{DICT_SEPARATOR}" + to_texts(series).dropna()
        return int((~names.isin(self.vectorizer_.vocabulary_)).sum())


def _dicts(frame: pd.DataFrame) -> list[dict[str, Any]]:
    # As text: the vectorizer would take a number for a value of its own column.
    return frame.apply(to_texts).to_dict("records")  # type: ignore[return-value]


class Select(_Framewise):
    """Keep the target and some columns: those named, or the `top` by what they tell of the target.

    Scores are scikit-learn's f_classif or f_regression (f_test), mutual information, or the variance.
    """

    def __init__(
        self,
        columns: list[str] | None = None,
        top: int | None = None,
        by: str = "f_test",
        target: str | None = None,
    ) -> None:
        self.columns = columns
        self.top = top
        self.by = by
        self.target = target

    def fit(self, X: pd.DataFrame, y: pd.Series | None = None) -> Self:  # noqa: N803
        if self.columns is not None:
            self.kept_ = list(self.columns)
            return self
        features = X.drop(columns=[self.target] if self.target in X.columns else [])
        self.scores_ = np.nan_to_num(self._score(features, y), nan=-np.inf)
        # Stable: of equals the first.
        best = np.argsort(-self.scores_, kind="stable")[: self.top]
        self.kept_ = [str(name) for name in features.columns[np.sort(best)]]
        return self

    def _score(self, features: pd.DataFrame, y: pd.Series | None) -> Any:
        if self.by == "variance":
            return features.var(ddof=0).to_numpy(dtype=float)
        assert y is not None
        classes = not is_numeric_dtype(y) or (y.nunique() <= FEW_CLASSES and (y % 1 == 0).all())
        if self.by == "f_test":
            score = f_classif if classes else f_regression
            with np.errstate(all="ignore"):
                return score(features, y)[0]
        score = mutual_info_classif if classes else mutual_info_regression
        return score(features, y, random_state=0)

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        keep = {*self.kept_, self.target}
        return X[[name for name in X.columns if name in keep]]


_FRAMES = (ClipOutliers, Encoder, FixedBins, SparseOneHot)
"""Transformers of ours: they take and give frames."""
