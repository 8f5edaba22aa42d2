"""Training: split, select, fit, predict and evaluate, from one frame. Pure scikit-learn: no Prefect.

Everything follows from frame and seed. Whatever looks at a target (selecting, fitting) sees the training
part alone, so that the test part stays a fair judge.
"""

import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import metrics as measures
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.feature_selection import (
    SelectKBest,
    f_classif,
    f_regression,
    mutual_info_classif,
    mutual_info_regression,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils._param_validation import InvalidParameterError
from threadpoolctl import threadpool_limits

from dropflow.errors import DatasetError, RejectedError
from dropflow.objects import printable
from dropflow.trainings import LOWER_IS_BETTER, METRICS, Metric, ModelKind, Task, Training
from dropflow.words import did_you_mean

Values = npt.NDArray[Any]

SPLIT = "split"
"""The column by which a recipe has divided the rows already: "train" or "test" in each."""
LEAST_ROWS = 10
MOST_CLASSES = 20
"""Whole numbers of up to so many distinct values are taken for classes, unless `task` says otherwise."""
MOST_NAMED = 5
MOST_PERMUTED = 50
"""Columns whose importance is measured: each costs REPEATS predictions of the test part."""
REPEATS = 5
ROWS_PERMUTED = 2_000
BINS = 20

ESTIMATORS: dict[tuple[ModelKind, Task], type[Any]] = {
    ("random_forest", "classification"): RandomForestClassifier,
    ("random_forest", "regression"): RandomForestRegressor,
    # The histogram kind: as good as the exact one, and many times faster from some thousand rows on.
    ("gradient_boosting", "classification"): HistGradientBoostingClassifier,
    ("gradient_boosting", "regression"): HistGradientBoostingRegressor,
    ("decision_tree", "classification"): DecisionTreeClassifier,
    ("decision_tree", "regression"): DecisionTreeRegressor,
    ("logistic_regression", "classification"): LogisticRegression,
    ("linear_regression", "regression"): LinearRegression,
    ("ridge", "regression"): Ridge,
}
SCALED = {"logistic_regression", "ridge"}
"""Models whose penalty depends on the columns' units: they get a scaler of their own."""


@dataclass(frozen=True)
class Split:
    """Rows to learn from and rows to judge by.

    `train` and `test` have shape (rows, features), float64; the targets one value per row: class names or
    whole numbers (classification), float64 (regression). `classes` are the target's, sorted; empty for
    regression. `scores` tell by what `select` chose: the higher the better.
    """

    target: str
    task: Task
    train: pd.DataFrame
    test: pd.DataFrame
    train_target: Values
    test_target: Values
    classes: tuple[str, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.train.columns)


@dataclass(frozen=True)
class Bin:
    """Test rows whose true value lies in [low, high]; predictions in the target's unit."""

    low: float
    high: float
    rows: int
    actual: float
    predicted: float


@dataclass(frozen=True)
class Evaluation:
    """What the test part showed.

    `confusion[i][j]` counts rows of class i taken for class j (classification). `bins` compare predicted
    with actual values, `residuals` counts predicted - actual between its edges (regression).
    `importance` is how much the decisive metric suffers when a feature is shuffled: (feature, loss).
    """

    task: Task
    decisive: Metric
    metrics: dict[str, float]
    baseline_name: str = ""
    baseline: dict[str, float] | None = None
    importance: tuple[tuple[str, float], ...] = ()
    classes: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    bins: tuple[Bin, ...] = ()
    residuals: tuple[tuple[float, float, int], ...] = ()


# --- split


def split(frame: pd.DataFrame, target: str, training: Training) -> Split:
    """Divide the rows by the column `split` if the recipe made one, else at random by the seed.

    A one-hot encoded target (species_setosa, species_virginica, …) is turned back into labels. Raises
    RejectedError where the data cannot be trained on, DatasetError where the `train:` section is wrong.
    """
    excluded = _named(training.exclude, frame, "exclude")
    if target in excluded:
        raise DatasetError(f"train.exclude names the target {target!r}")
    frame = frame.drop(columns=list(excluded))
    labels, used_up = _target(frame, target)
    if labels.isna().any():
        raise RejectedError(f"the target {target} is missing in {_rows(labels.isna())}: drop or impute those")
    task = _task(labels, training)
    values = _values(labels, target, task)
    parts = _parts(frame)
    table = _features(frame.drop(columns=[*used_up, *([SPLIT] if parts is not None else [])]), training)
    if len(table) < LEAST_ROWS:
        raise RejectedError(f"has {len(table)} rows; training needs {LEAST_ROWS} at least")
    if task == "classification":
        _check_classes(values, target)
    chosen = _divide(values, parts, task, training)
    return _split(table, values, chosen, target, task)


def _split(table: pd.DataFrame, values: Values, train: Values, target: str, task: Task) -> Split:
    classes: tuple[str, ...] = ()
    if task == "classification":
        known = np.unique(values[train])
        if len(known) < 2:
            raise RejectedError(f"every row to train on has {target} = {known[0]}: nothing to tell apart")
        unseen = sorted({str(value) for value in values[~train]} - {str(value) for value in known})
        if unseen:
            raise RejectedError(
                f"the class {printable(unseen[0], 60)} of {target} is in the test part only: "
                "give it more rows, or stratify"
            )
        classes = tuple(str(value) for value in known)
    return Split(target, task, table[train], table[~train], values[train], values[~train], classes)


def _named(names: Iterable[str], frame: pd.DataFrame, where: str) -> list[str]:
    """The columns so named; the name of a one-hot encoded column means all its columns."""
    found: list[str] = []
    for name in names:
        columns = [name] if name in frame.columns else _one_hot(frame, name)
        if not columns:
            near = did_you_mean(name, map(str, frame.columns))
            raise DatasetError(f"train.{where} names the column {name!r}, which the data has not{near}")
        found += columns
    return found


def _one_hot(frame: pd.DataFrame, name: str) -> list[str]:
    """The columns <name>_<value>, or <name>=<value> of a dict-vectorizer, of nothing but 0 and 1."""
    prefixed = [column for column in frame.columns if str(column).startswith((f"{name}_", f"{name}="))]
    return [column for column in prefixed if _numeric(frame[column]) and frame[column].isin((0, 1)).all()]


def _target(frame: pd.DataFrame, target: str) -> tuple[pd.Series, list[str]]:
    """The target's values, and the columns it was made of."""
    if target in frame.columns:
        return frame[target], [target]
    columns = _one_hot(frame, target)
    if not columns:
        near = did_you_mean(target, map(str, frame.columns))
        have = printable(", ".join(map(str, frame.columns)), 200)
        raise RejectedError(f"has no target column {target}{near}; it has {have}")
    bits = frame[columns].to_numpy(dtype=float)
    odd = bits.sum(axis=1) != 1
    if odd.any():
        raise RejectedError(
            f"the target {target} is spread over {printable(', '.join(columns), 200)}, but "
            f"{_rows(pd.Series(odd))} have not exactly one of them set: columns that are none of its "
            "values belong to train.exclude, rows without a value need to be imputed"
        )
    names = np.array([str(column)[len(target) + 1 :] for column in columns])
    return pd.Series(names[bits.argmax(axis=1)], index=frame.index, name=target), columns


def _task(labels: pd.Series, training: Training) -> Task:
    """The task the section names, or else what the target looks like."""
    if training.known_task:
        return training.known_task
    if not _numeric(labels) or labels.dtype == bool:
        return "classification"
    numbers = labels.to_numpy(dtype=float)
    whole = bool(np.all(numbers == np.round(numbers)))
    return "classification" if whole and labels.nunique() <= MOST_CLASSES else "regression"


def _values(labels: pd.Series, target: str, task: Task) -> Values:
    if task == "regression":
        if not _numeric(labels):
            raise RejectedError(f"the target {target} is text: regression needs numbers")
        numbers = labels.to_numpy(dtype=float)
        if not np.isfinite(numbers).all():
            raise RejectedError(f"the target {target} is not finite in {_rows(~np.isfinite(numbers))}")
        if len(numbers) and np.ptp(numbers) == 0:
            raise RejectedError(f"the target {target} is {numbers[0]:g} in every row: nothing to learn")
        return numbers
    if _numeric(labels) and labels.dtype != bool:
        numbers = labels.to_numpy(dtype=float)
        if np.isfinite(numbers).all() and np.all(numbers == np.round(numbers)):
            # 0.0 and 1.0 are what imputing and encoding make of 0 and 1.
            return numbers.astype(np.int64)
    # A fixed-width array of strings: skops stores one without any type of its own.
    return labels.astype(str).to_numpy(dtype=str)


def _parts(frame: pd.DataFrame) -> Values | None:
    """Which rows are to train on, if the recipe has said so."""
    if SPLIT not in frame.columns:
        return None
    wrong = ~frame[SPLIT].isin(("train", "test"))
    if wrong.any():
        value = printable(str(frame.loc[wrong, SPLIT].iloc[0]), 40)
        raise RejectedError(
            f"the column {SPLIT} divides the rows, but holds {value!r} in {_rows(wrong)}: it takes train "
            f"and test; a column that means something else belongs to train.exclude"
        )
    train = (frame[SPLIT] == "train").to_numpy(dtype=bool)
    if train.all() or not train.any():
        raise RejectedError(f"the column {SPLIT} has no row for {'testing' if train.all() else 'training'}")
    return train


def _features(frame: pd.DataFrame, training: Training) -> pd.DataFrame:
    """The feature columns as float64. Raises RejectedError naming every column that cannot be one."""
    table = frame if training.features is None else frame[_named(training.features, frame, "features")]
    if table.columns.empty:
        raise RejectedError("has no column besides the target: nothing to learn from")
    repeated = sorted({str(name) for name in table.columns[table.columns.duplicated()]})
    if repeated:
        raise RejectedError(f"has several columns named {printable(repeated[0], 60)}")
    if text := [name for name in table.columns if not _numeric(table[name])]:
        raise RejectedError(_unencoded(table, text))
    numbers = table.astype("float64").replace([np.inf, -np.inf], np.nan)
    gaps = numbers.isna().sum()
    if (missing := gaps[gaps > 0]).size:
        named = [f"{name} ({count:,} rows)" for name, count in missing.items()]
        advice = ", ".join(f"{name}: median" for name in missing.index[:MOST_NAMED])
        raise RejectedError(
            f"values are missing or not finite in {_some(named)}: add the step impute: {{{advice}}}"
        )
    return numbers


def _unencoded(table: pd.DataFrame, text: list[str]) -> str:
    """What is text, and the steps that would help: names and ids are dropped, kinds are encoded."""
    encode = [name for name in text if table[name].nunique() <= max(MOST_CLASSES, len(table) ** 0.5)]
    drop = [name for name in text if name not in encode]
    advice = []
    if encode:
        advice.append(f"encode: {{{', '.join(f'{name}: onehot' for name in encode[:MOST_NAMED])}}}")
    if drop:
        advice.append(f"drop: [{', '.join(drop[:MOST_NAMED])}]")
    return (
        f"models need numbers, but {_some(text)} {'is' if len(text) == 1 else 'are'} not: add the "
        f"{'step' if len(advice) == 1 else 'steps'} {' and '.join(advice)}, or name them in train.exclude"
    )


def _check_classes(values: Values, target: str) -> None:
    kinds, counts = np.unique(values, return_counts=True)
    if len(kinds) < 2:
        raise RejectedError(f"every row has {target} = {kinds[0]}: nothing to tell apart")
    if len(kinds) > len(values) / 2:
        raise RejectedError(
            f"the target {target} has {len(kinds):,} classes in {len(values):,} rows: too few rows for each; "
            "for a quantity say task: regression"
        )
    if counts.min() < 2:
        rare = printable(str(kinds[counts.argmin()]), 60)
        raise RejectedError(
            f"the class {rare} of {target} has a single row: one to train on and one to test with are "
            "needed at least"
        )


def _divide(values: Values, parts: Values | None, task: Task, training: Training) -> Values:
    """Per row, whether to train on it. Raises RejectedError where there are too few rows to divide."""
    if parts is not None:
        train = parts
    else:
        by = values if task == "classification" and training.stratify else None
        try:
            chosen, _ = train_test_split(
                np.arange(len(values)), test_size=training.test_size, random_state=training.seed, stratify=by
            )
        except ValueError as error:
            reason = printable(str(error), 200)
            raise RejectedError(f"too few rows to hold {training.test_size:.0%} out: {reason}") from error
        train = np.zeros(len(values), dtype=bool)
        train[chosen] = True
    fewest = min(int(train.sum()), int((~train).sum()))
    if fewest < 2:
        raise RejectedError(
            f"{int(train.sum())} rows to train on and {int((~train).sum())} to test with: two each are needed"
        )
    return train


def _numeric(series: Any) -> bool:
    return bool(pd.api.types.is_numeric_dtype(series)) and not pd.api.types.is_complex_dtype(series)


def _rows(which: Any) -> str:
    """How many rows, and the first: the header is row 0."""
    bad = np.asarray(which, dtype=bool)
    count, first = int(bad.sum()), int(bad.argmax()) + 1
    return f"row {first}" if count == 1 else f"{count:,} rows (the first is row {first})"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return printable(", ".join(map(str, names[:MOST_NAMED])), 300) + more


# --- select


def select(split: Split, training: Training) -> Split:
    """The split with the `select` best features, in their old order; judged by the training part alone."""
    if training.select is None or training.select >= len(split.features):
        return split
    scores = _scores(split, training)
    # Features that never vary have no score.
    chooser = SelectKBest(lambda _x, _y: np.nan_to_num(scores, nan=-np.inf), k=training.select)
    kept = chooser.fit(split.train, split.train_target).get_support()
    names = [name for name, keep in zip(split.features, kept, strict=True) if keep]
    told = tuple((name, float(s)) for name, s, keep in zip(split.features, scores, kept, strict=True) if keep)
    return replace(split, train=split.train[names], test=split.test[names], scores=told)


def _scores(split: Split, training: Training) -> Values:
    x, y = split.train, split.train_target
    classify = split.task == "classification"
    if training.by == "f_test":
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            return np.asarray((f_classif if classify else f_regression)(x, y)[0], dtype=float)
    if training.by == "mutual_info":
        # Codes and flags are no quantities: their neighbours on the number line mean nothing.
        kinds = np.array([x[name].nunique() <= MOST_CLASSES for name in x.columns])
        coded = x.apply(
            lambda column: pd.factorize(column)[0] if column.nunique() <= MOST_CLASSES else column
        )
        score = mutual_info_classif if classify else mutual_info_regression
        return np.asarray(score(coded, y, discrete_features=kinds, random_state=training.seed), dtype=float)
    forest = ESTIMATORS["random_forest", split.task](n_estimators=100, random_state=training.seed, n_jobs=1)
    return np.asarray(forest.fit(x, y).feature_importances_, dtype=float)


# --- fit and predict


def check_options(training: Training, task: Task) -> None:
    """Raises DatasetError for an option that the estimator does not have, or a model of another task."""
    made = _class(training.model, task)
    known = [name for name in inspect.signature(made).parameters if name != "random_state"]
    for name in training.options:
        if name not in known:
            raise DatasetError(
                f"train.options: {training.model} has no option {name!r}{did_you_mean(name, known)} "
                f"(expected {', '.join(known)})"
            )


def _class(model: ModelKind, task: Task) -> type[Any]:
    found = ESTIMATORS.get((model, task))
    if found is None:
        able = ", ".join(kind for kind, does in ESTIMATORS if does == task)
        raise DatasetError(f"train.model {model} cannot do {task} (models that can: {able})")
    return found


def build(training: Training, task: Task) -> BaseEstimator:
    """The unfitted estimator: seeded, and on one core unless the options say more. Raises DatasetError."""
    check_options(training, task)
    made = _class(training.model, task)
    parameters = inspect.signature(made).parameters
    given: dict[str, Any] = {"random_state": training.seed, "n_jobs": 1}
    options = {name: value for name, value in given.items() if name in parameters} | training.options
    if training.model == "logistic_regression":
        options = {"max_iter": 1000, "n_jobs": None} | {k: v for k, v in options.items() if k != "n_jobs"}
    estimator: BaseEstimator = made(**options)
    if training.model in SCALED:
        return Pipeline([("scale", StandardScaler()), ("model", estimator)])
    return estimator


def fit(split: Split, training: Training) -> BaseEstimator:
    """The estimator fitted on the training part. Raises DatasetError where it does not take its options."""
    return _fitted(build(training, split.task), split)


def fit_baseline(split: Split, training: Training) -> tuple[str, BaseEstimator]:
    """What the model has to beat, with its name: the commonest class, or a straight line.

    A straight line's own baseline is the mean.
    """
    if split.task == "classification":
        return "most frequent class", _fitted(DummyClassifier(), split)
    if training.model == "linear_regression":
        return "mean", _fitted(DummyRegressor(), split)
    return "linear regression", _fitted(LinearRegression(), split)


def _fitted(estimator: Any, split: Split) -> BaseEstimator:
    try:
        # Runs share the machine, and sums in another order would be other sums.
        with threadpool_limits(1), warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            fitted: BaseEstimator = estimator.fit(split.train, split.train_target)
    except (InvalidParameterError, TypeError) as error:
        raise DatasetError(f"train.options: {printable(str(error), 300)}") from error
    except ValueError as error:
        raise RejectedError(f"cannot be trained on: {printable(str(error).splitlines()[0], 300)}") from error
    return fitted


def predict(estimator: Any, frame: pd.DataFrame) -> Values:
    """One class or number per row. Columns are taken by name; raises RejectedError where some are missing."""
    return np.asarray(_without_threads(estimator.predict, _as_fitted(estimator, frame)))


def _as_fitted(estimator: Any, frame: pd.DataFrame) -> pd.DataFrame:
    wanted = [str(name) for name in estimator.feature_names_in_]
    if missing := [name for name in wanted if name not in frame.columns]:
        raise RejectedError(f"lacks the columns {_some(missing)}, which the model was trained on")
    return frame if list(frame.columns) == wanted else frame[wanted]


def _without_threads(function: Callable[..., Any], *arguments: Any) -> Any:
    with threadpool_limits(1):
        return function(*arguments)


# --- evaluate


def evaluate(estimator: Any, split: Split, training: Training) -> dict[str, float]:
    """The metrics on the test part; one that its rows leave undefined is left out.

    For two classes f1, precision and recall are those of the later one (1, True, yes); for more, the mean
    over classes. rmse and mae are in the target's unit.
    """
    predicted = predict(estimator, split.test)
    wanted = training.metrics_of(split.task)
    chances = _without_threads(estimator.predict_proba, split.test) if "roc_auc" in wanted else None
    found = {name: _measure(name, split, predicted, chances) for name in wanted}
    return {name: value for name, value in found.items() if value is not None}


def _measure(name: Metric, split: Split, predicted: Values, chances: Values | None) -> float | None:
    actual = split.test_target
    with warnings.catch_warnings(action="ignore", category=UndefinedMetricWarning):
        try:
            value = _MEASURES[name](actual, predicted, chances, split)
        except ValueError:
            # scikit-learn refuses a ROC curve over more classes than the test part has.
            return None
    return round(float(value), 6) if np.isfinite(value) else None


def _averaged(score: Callable[..., Any]) -> Callable[..., float]:
    def measure(actual: Values, predicted: Values, _chances: Values, split: Split) -> float:
        known = np.unique(split.train_target)
        if len(known) == 2:
            return float(score(actual, predicted, pos_label=known[1], zero_division=0))
        return float(score(actual, predicted, labels=known, average="macro", zero_division=0))

    return measure


def _roc_auc(actual: Values, _predicted: Values, chances: Values, split: Split) -> float:
    known = np.unique(split.train_target)
    if len(known) == 2:
        return float(measures.roc_auc_score(actual == known[1], chances[:, 1]))
    return float(measures.roc_auc_score(actual, chances, multi_class="ovr", labels=known))


_MEASURES: dict[Metric, Callable[..., float]] = {
    "accuracy": lambda actual, predicted, *_: measures.accuracy_score(actual, predicted),
    "f1": _averaged(measures.f1_score),
    "precision": _averaged(measures.precision_score),
    "recall": _averaged(measures.recall_score),
    "roc_auc": _roc_auc,
    "rmse": lambda actual, predicted, *_: measures.root_mean_squared_error(actual, predicted),
    "mae": lambda actual, predicted, *_: measures.mean_absolute_error(actual, predicted),
    "r2": lambda actual, predicted, *_: measures.r2_score(actual, predicted),
}
assert set(_MEASURES) == {metric for known in METRICS.values() for metric in known}


def examine(estimator: BaseEstimator, split: Split, training: Training) -> Evaluation:
    """Everything the report shows: metrics, baseline, errors, importance."""
    found = Evaluation(
        task=split.task,
        decisive=training.decisive(split.task),
        metrics=evaluate(estimator, split, training),
        importance=importance(estimator, split, training),
    )
    if training.baseline:
        name, simple = fit_baseline(split, training)
        found = replace(found, baseline_name=name, baseline=evaluate(simple, split, training))
    predicted = predict(estimator, split.test)
    if split.task == "classification":
        known = np.unique(split.train_target)
        counts = measures.confusion_matrix(split.test_target, predicted, labels=known)
        rows = tuple(tuple(int(count) for count in row) for row in counts)
        return replace(found, classes=split.classes, confusion=rows)
    return replace(
        found, bins=_binned(split.test_target, predicted), residuals=_residuals(split.test_target, predicted)
    )


def importance(estimator: Any, split: Split, training: Training) -> tuple[tuple[str, float], ...]:
    """How much worse the decisive metric gets when a feature's values are shuffled, largest first.

    By permutation on the test part: a forest's own figures favour columns of many values, and only some
    models have any. Of many features the MOST_PERMUTED that tell most by themselves are measured.
    """
    names = list(split.features)
    if len(names) > MOST_PERMUTED:
        single = training.model_copy(update={"select": MOST_PERMUTED, "by": "f_test"})
        names = list(select(split, single).features)
    some = np.random.default_rng(training.seed).permutation(len(split.test))[:ROWS_PERMUTED]
    rows, actual = split.test.iloc[some], split.test_target[some]
    before = _score(estimator, rows, actual, split, training)
    losses = {name: before - _shuffled(name, estimator, rows, actual, split, training) for name in names}
    return tuple(sorted(losses.items(), key=lambda pair: -pair[1]))


def _shuffled(
    name: str, estimator: Any, rows: pd.DataFrame, actual: Values, split: Split, training: Training
) -> float:
    """The mean score when the one column is shuffled."""
    rng, values = np.random.default_rng(training.seed), rows[name].to_numpy()
    other, scores = rows.copy(), []
    for _ in range(REPEATS):
        other[name] = rng.permutation(values)
        scores.append(_score(estimator, other, actual, split, training))
    return float(np.mean(scores))


def _score(estimator: Any, rows: pd.DataFrame, actual: Values, split: Split, training: Training) -> float:
    """The decisive metric, turned so that more is better; 0 where undefined."""
    part = replace(split, test=rows, test_target=actual)
    only = training.model_copy(update={"metrics": (training.decisive(split.task),), "better_by": None})
    value = next(iter(evaluate(estimator, part, only).values()), 0.0)
    return -value if training.decisive(split.task) in LOWER_IS_BETTER else value


def _binned(actual: Values, predicted: Values) -> tuple[Bin, ...]:
    """Test rows in up to BINS bins of as many rows each, by their true value."""
    groups = [group for group in np.array_split(np.argsort(actual, kind="stable"), BINS) if len(group)]
    return tuple(
        Bin(
            float(actual[group].min()),
            float(actual[group].max()),
            len(group),
            float(actual[group].mean()),
            float(predicted[group].mean()),
        )
        for group in groups
    )


def _residuals(actual: Values, predicted: Values) -> tuple[tuple[float, float, int], ...]:
    """(from, to, rows) of predicted - actual; the outer two hold what lies beyond percentiles 1 and 99."""
    errors = predicted - actual
    low, high = np.percentile(errors, [1, 99])
    counts, edges = np.histogram(np.clip(errors, low, high), bins=BINS)
    return tuple((float(a), float(b), int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False))


# --- all of it


@dataclass(frozen=True)
class Trained:
    """A fitted estimator with the split it comes from and what it is worth."""

    split: Split
    estimator: BaseEstimator
    evaluation: Evaluation


def train(frame: pd.DataFrame, target: str, training: Training) -> Trained:
    """Split, select, fit and examine in one go. Raises RejectedError or DatasetError."""
    chosen = select(split(frame, target, training), training)
    estimator = fit(chosen, training)
    return Trained(chosen, estimator, examine(estimator, chosen, training))
