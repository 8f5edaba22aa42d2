"""The steps of a recipe as scikit-learn transformers: built, fitted, applied. Pure: no Prefect."""

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MinMaxScaler,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)

from dropflow.datasets import Dataset
from dropflow.errors import PermanentError, RejectedError
from dropflow.objects import printable
from dropflow.recipes import Bin, Constant, Step
from flows import contract, encoding, reading, splitting, transformers
from flows.descriptions import describe
from flows.transformers import (
    Cast,
    ClipOutliers,
    Columnwise,
    Derive,
    Drop,
    Encoder,
    Filter,
    FixedBins,
    Rename,
    Select,
    SparseOneHot,
    array,
    gaps_of,
)

SCALERS = {
    "standard": StandardScaler,
    "minmax": MinMaxScaler,
    "robust": RobustScaler,
    "power": PowerTransformer,
}
DECLARED = {"columns", "unknown_columns", "missing_columns", "quarantine", "read", "prepare", "target"}
"""Fields of a dataset that, with steps, split and output, decide what an object becomes."""


def fingerprint(dataset: Dataset, preprocessor: str = "") -> str:
    """Identify the preparation: what is declared, the code that carries it out, scikit-learn.

    `preprocessor`: the identity of the fitted one that is used, "" where every file is fitted anew.
    """
    fields = {*DECLARED, "column_order", "steps", "split", "output", "unknown_categories", "drift", "fit"}
    declared = dataset.model_dump(mode="json", include=fields)
    return _digest([declared, preprocessor, code(dataset.prepare), sklearn.__version__, pd.__version__])


def recipe_id(dataset: Dataset) -> str:
    """Identify what is fitted: columns, function and steps. A preprocessor of another one is of no use."""
    return _digest(
        [dataset.model_dump(mode="json", include={"columns", "prepare", "target", "steps", "split"})]
    )


@cache
def code(prepare: str | None) -> str:
    """The source of all that prepares a frame, the dataset's own function included."""
    if prepare:
        return code(None) + inspect.getsource(sys.modules[own_function(prepare).__module__])
    # Imported here: they build on this module.
    from flows import learners, outofcore, pruning

    own = sys.modules[__name__]
    modules: list[Any] = [contract, splitting, transformers, encoding, learners, outofcore, pruning, own]
    return reading.source() + "".join(inspect.getsource(module) for module in modules)


def _digest(parts: list[Any]) -> str:
    # Not sorted: the order of columns and steps matters.
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def title(step: Step) -> str:
    """What the step is called where people look."""
    return f"{step.kind} {printable(', '.join(step.columns), 80)}".strip()


TRANSFORMERS = (
    *(Cast, ClipOutliers, Columnwise, Derive, Drop, Encoder, Filter, FixedBins, Rename, Select, SparseOneHot),
    *(SimpleImputer, KNNImputer, KBinsDiscretizer, *SCALERS.values()),
)
"""All classes that `build` makes."""


def build(step: Step, dataset: Dataset) -> Any:
    """The unfitted transformer of one step: frame in, frame out, other columns untouched."""
    make = _BUILD.get(step.kind)
    return make(step, dataset) if make else Columnwise(_parts(step, dataset), dataset.target)


def _plain(named: dict[str, Any] | None) -> dict[str, Any]:
    """Options as plain values: what skops stores."""
    return {name: how.model_dump(mode="json") for name, how in (named or {}).items()}


def _selection(step: Step, dataset: Dataset) -> Select:
    assert step.select
    columns = list(step.select.columns) if step.select.columns else None
    return Select(columns, step.select.top, step.select.by, dataset.target)


_BUILD: dict[str, Callable[[Step, Dataset], Any]] = {
    "drop": lambda step, _: Drop(list(step.drop or ())),
    "rename": lambda step, _: Rename(dict(step.rename or {})),
    "cast": lambda step, _: Cast(dict(step.cast or {})),
    "derive": lambda step, _: Derive(_plain(step.derive)),
    "filter": lambda step, _: Filter(_plain(step.filter)),
    "select": _selection,
}


def _parts(step: Step, dataset: Dataset) -> list[tuple[list[str], Any]]:
    if step.impute:
        return _imputers(step.impute)
    if step.encode:
        return _encoders(step.encode, dataset)
    if step.clip:
        return [([name], ClipOutliers(**how.model_dump())) for name, how in step.clip.items()]
    if step.bin:
        return [([name], _binner(how)) for name, how in step.bin.items()]
    assert step.scale
    return [(list(step.scale.columns), SCALERS[step.scale.method]())]


def _imputers(ways: dict[str, Any]) -> list[tuple[list[str], Any]]:
    parts: list[tuple[list[str], Any]] = []
    for name, way in ways.items():
        if isinstance(way, Constant):
            constant = SimpleImputer(strategy="constant", fill_value=way.constant, keep_empty_features=True)
            parts.append(([name], constant))
        elif way != "knn":
            parts.append(([name], SimpleImputer(strategy=way)))
    if near := [name for name, way in ways.items() if way == "knn"]:
        parts.append((near, KNNImputer()))
    return parts


def _encoders(ways: dict[str, Any], dataset: Dataset) -> list[tuple[list[str], Any]]:
    parts: list[tuple[list[str], Any]] = []
    for name, how in ways.items():
        # Declared values make the output's columns and codes the same for every file.
        column = dataset.columns.get(name)
        values = list(column.values) if column and column.values else None
        parts.append(([name], SparseOneHot() if how == "dict" else Encoder(how, values)))
    return parts


def _binner(how: Bin) -> Any:
    if how.edges:
        return FixedBins(list(how.edges))
    options = {"quantile_method": "averaged_inverted_cdf"} if how.strategy == "quantile" else {}
    return KBinsDiscretizer(how.bins, encode="ordinal", strategy=how.strategy, **options)


def apply(
    frame: pd.DataFrame,
    step: Step,
    dataset: Dataset,
    learn_from: pd.Index | None = None,
    fitted: Any = None,
    *,
    is_part: bool = False,
) -> tuple[pd.DataFrame, Any, str]:
    """Fit one step on the rows `learn_from` (all, if None) unless it is `fitted`, and apply it to all.

    Returns the new frame (the same rows, but for a filter; columns in their old order), the fitted
    transformer, and what was done in words. Raises RejectedError where the data leaves the step nothing
    to work on; of a part of a file, no row need be left.
    """
    check_size(frame, step)
    with fitting(step):
        if fitted is None:
            fitted = _fit(frame, step, dataset, learn_from)
        with np.errstate(over="ignore"):
            result: pd.DataFrame = fitted.transform(frame)
    if result.empty and not frame.empty and not is_part:
        raise RejectedError(f"step {title(step)} leaves none of the {len(frame):,} rows")
    _check_finite(frame, result, step)
    return result, fitted, "" if is_part else describe(step, frame, result)


@contextmanager
def fitting(step: Step) -> Iterator[None]:
    """What a transformer says of the data, as a RejectedError that names the step."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, KeyError) as error:
        reason = printable(str(error).splitlines()[0] if str(error) else repr(error), 200)
        raise RejectedError(f"step {step.kind} does not fit the data: {reason}") from error


LARGEST_SQUARED, LARGEST_ADDED = 1e150, 1e300
"""Numbers beyond them overflow where they are squared, as every variance does, or added up."""


def check_size(frame: pd.DataFrame, step: Step) -> None:
    """Raises RejectedError where numbers are too large to be reckoned with."""
    limits = {name: LARGEST_ADDED for name, way in (step.impute or {}).items() if way in ("mean", "median")}
    limits |= {name: LARGEST_SQUARED for name, way in (step.impute or {}).items() if way == "knn"}
    others = [*(step.scale.columns if step.scale else ()), *(step.clip or ()), *(step.bin or ())]
    limits |= dict.fromkeys(others, LARGEST_SQUARED)
    for name in sorted(limits.keys() & set(frame.columns)):
        values = array(frame[name])
        # Past gaps, and ten times as fast as pandas.
        largest = max(np.fmax.reduce(values, initial=0), -np.fmin.reduce(values, initial=0))
        if largest > limits[name]:
            raise RejectedError(
                f"column {name} holds {largest:g}: beyond {limits[name]:g} there is no {step.kind}; "
                f"set a `max`"
            )


def _check_finite(before: pd.DataFrame, after: pd.DataFrame, step: Step) -> None:
    """Raises RejectedError where the step has made a number that is none."""
    if step.kind not in ("cast", "derive", "impute", "scale"):
        return
    unchanged = {*before.columns} - {*step.columns}
    for name in after.columns:
        if name in unchanged:
            continue
        if after[name].dtype.kind == "f" and np.isinf(array(after[name])).any():
            raise RejectedError(
                f"step {title(step)} makes column {name} infinite: numbers too large, or too far apart"
            )


def _fit(frame: pd.DataFrame, step: Step, dataset: Dataset, learn_from: pd.Index | None) -> Any:
    rows = frame if learn_from is None else frame.loc[frame.index.intersection(learn_from)]
    if rows.empty:
        raise RejectedError(f"step {title(step)} has no row to learn from")
    for column in step.impute or ():
        if gaps_of(rows[column]).all() and not isinstance((step.impute or {})[column], Constant):
            raise RejectedError(f"column {column} has no value at all: nothing to impute it from")
    for column in (step.scale.columns if step.scale else ()) or step.clip or ():
        if gaps_of(rows[column]).all():
            raise RejectedError(f"column {column} has no value at all: nothing to {step.kind}")
    target = None
    if dataset.target and dataset.target in rows.columns:
        rows = rows[rows[dataset.target].notna()] if needs_target(step) else rows
        target = rows[dataset.target]
    with np.errstate(all="ignore"):
        return build(step, dataset).fit(rows, target)


def needs_target(step: Step) -> bool:
    return bool(step.select) or "target" in (step.encode or {}).values()


def prepared(frame: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The frame as the dataset's own function gives it back. Raises RejectedError, PermanentError."""
    if not dataset.prepare:
        return frame
    function = own_function(dataset.prepare)
    try:
        result = function(frame.copy())
    except (Exception, SystemExit) as error:
        # Somebody else's code: whatever it raises is about this file.
        reason = printable(f"{type(error).__name__}: {error}", 300)
        raise RejectedError(f"prepare {dataset.prepare} does not fit the data: {reason}") from error
    if not isinstance(result, pd.DataFrame) or not _is_part(result.index, frame.index):
        raise PermanentError(f"prepare {dataset.prepare} must return a frame with the index of the one given")
    if not result.columns.is_unique:
        twice = printable(str(result.columns[result.columns.duplicated()][0]), 60)
        raise PermanentError(f"prepare {dataset.prepare} has returned two columns of the name {twice}")
    if result.empty and not frame.empty:
        raise RejectedError(f"prepare {dataset.prepare} leaves none of the {len(frame):,} rows")
    return result


def _is_part(index: pd.Index, whole: pd.Index) -> bool:
    return index.nlevels == 1 and index.is_unique and bool(index.isin(whole).all())


def own_function(path: str) -> Any:
    """The dataset's `prepare: module:function`. Raises PermanentError when there is none."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PermanentError(
            f"prepare: {path}: {error}; the module must be installed, or lie beside the folder datasets/"
        ) from error
