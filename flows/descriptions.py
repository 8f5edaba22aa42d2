"""What a step has done, in words."""

from typing import Any

import numpy as np
import pandas as pd

from dropflow.objects import printable
from dropflow.recipes import Constant, Step
from flows.transformers import gaps_of


def describe(step: Step, before: pd.DataFrame, after: pd.DataFrame) -> str:
    """One line, or a clause a column."""
    if step.impute:
        return "; ".join(_imputed(name, how, before, after) for name, how in step.impute.items())
    names = ", ".join(step.columns)
    return {
        "drop": f"dropped {names}",
        "rename": ", ".join(f"{old} is now {new}" for old, new in (step.rename or {}).items()),
        "cast": ", ".join(f"{name} to {kind}" for name, kind in (step.cast or {}).items()),
        "derive": f"made {_new(before, after)}",
        "filter": f"{len(before) - len(after):,} rows left out by {names}",
        "encode": "; ".join(f"{name} {how}" for name, how in (step.encode or {}).items()),
        "scale": f"{step.scale.method if step.scale else ''}: {names}",
        "clip": f"clipped {names}",
        "bin": f"binned {names}",
        "select": f"kept {after.shape[1]} of {before.shape[1]} columns: {_all(after)}",
    }[step.kind]


def _new(before: pd.DataFrame, after: pd.DataFrame) -> str:
    return printable(", ".join(str(name) for name in after.columns if name not in before.columns), 200)


def _all(frame: pd.DataFrame) -> str:
    return printable(", ".join(map(str, frame.columns)), 200)


def _imputed(name: str, how: Any, before: pd.DataFrame, after: pd.DataFrame) -> str:
    gaps = gaps_of(before[name]) if name in before.columns else np.zeros(0, dtype=bool)
    if not gaps.any():
        return f"{name}: nothing missing"
    if how == "knn":
        return f"{name}: {int(gaps.sum()):,} missing filled from the nearest rows"
    value = after[name].iloc[int(gaps.argmax())]
    shown = f"{value:g}" if isinstance(value, float) else printable(str(value), 60)
    way = "constant" if isinstance(how, Constant) else how
    return f"{name}: {int(gaps.sum()):,} missing filled with the {way} {shown}"
