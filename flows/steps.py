"""The steps of a recipe, each a scikit-learn transformer with pandas output. Pure: no Prefect."""

import hashlib
import inspect
import json
import sys
from typing import Any

import pandas as pd
import sklearn
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)

from dropflow.datasets import Dataset, Imputation, Step
from dropflow.errors import RejectedError
from dropflow.objects import printable
from flows import contract, reading

SCALERS = {"standard": StandardScaler, "minmax": MinMaxScaler, "robust": RobustScaler}


def fingerprint(dataset: Dataset) -> str:
    """Identify the preparation: steps, contract, the code that carries them out, scikit-learn."""
    declared = dataset.model_dump(mode="json", include={"columns", "unknown_columns", "steps"})
    code = "".join(inspect.getsource(module) for module in (reading, contract, sys.modules[__name__]))
    text = json.dumps([declared, code, sklearn.__version__, pd.__version__], sort_keys=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def override_imputation(dataset: Dataset, method: Imputation) -> Dataset:
    """The same dataset with every number imputed by `method`."""
    steps = []
    for step in dataset.steps:
        if step.impute:
            changed = {
                name: method if dataset.columns[name].type == "number" else how
                for name, how in step.impute.items()
            }
            steps.append(Step(impute=changed))
        else:
            steps.append(step)
    return dataset.model_copy(update={"steps": tuple(steps)})


def build(step: Step, dataset: Dataset) -> ColumnTransformer:
    """The unfitted transformer of one step: frame in, frame out, other columns untouched."""
    if step.drop:
        parts: list[tuple[str, Any, list[str]]] = [("drop", "drop", list(step.drop))]
    elif step.impute:
        parts = [(c, SimpleImputer(strategy=how), [c]) for c, how in step.impute.items()]
    elif step.encode:
        parts = [(c, _encoder(how, dataset, c), [c]) for c, how in step.encode.items()]
    else:
        assert step.scale
        parts = [("scale", SCALERS[step.scale.method](), list(step.scale.columns))]
    transformer = ColumnTransformer(parts, remainder="passthrough", verbose_feature_names_out=False)
    return transformer.set_output(transform="pandas")


def _encoder(how: str, dataset: Dataset, column: str) -> BaseEstimator:
    # Declared values make the output's columns and codes the same for every file.
    values = dataset.columns[column].values
    categories: Any = [list(values)] if values else "auto"
    if how == "onehot":
        return OneHotEncoder(categories=categories, sparse_output=False, handle_unknown="ignore")
    return OrdinalEncoder(categories=categories)


def apply(frame: pd.DataFrame, step: Step, dataset: Dataset) -> tuple[pd.DataFrame, str]:
    """Fit and apply one step.

    Returns the new frame (the same rows, columns in their old order) and what was done in words.
    Raises RejectedError where the data leaves the step nothing to work on.
    """
    for column in step.impute or ():
        if frame[column].isna().all():
            raise RejectedError(f"column {column} has no value at all: nothing to impute it from")
    try:
        result: pd.DataFrame = build(step, dataset).fit_transform(frame)
    except ValueError as error:
        reason = printable(str(error).splitlines()[0], 200)
        raise RejectedError(f"step {step.kind} does not fit the data: {reason}") from error
    return _in_order(result, frame), _describe(step, frame, result)


def _in_order(result: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """Keep each column where it was; the columns of a one-hot encoding stand where theirs stood."""
    position = {name: index for index, name in enumerate(before.columns)}

    def place(name: str) -> int:
        while name and name not in position:
            name = name.rpartition("_")[0]
        return position[name]

    ordered: list[str] = sorted((str(name) for name in result.columns), key=place)
    return result[ordered]


def _describe(step: Step, before: pd.DataFrame, after: pd.DataFrame) -> str:
    if step.drop:
        return f"dropped {', '.join(step.drop)}"
    if step.impute:
        return "; ".join(_imputed(name, how, before, after) for name, how in step.impute.items())
    if step.encode:
        return "; ".join(f"{name} {how}" for name, how in step.encode.items())
    assert step.scale
    return f"{step.scale.method}: {', '.join(step.scale.columns)}"


def _imputed(name: str, how: str, before: pd.DataFrame, after: pd.DataFrame) -> str:
    gaps = before[name].isna()
    if not gaps.any():
        return f"{name}: nothing missing"
    value = after.loc[gaps, name].iloc[0]
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name}: {int(gaps.sum()):,} missing filled with the {how} {shown}"
