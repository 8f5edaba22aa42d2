"""Raw bytes to a prepared frame: parse, validate, carry out the recipe. No Prefect here."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from dropflow.datasets import Dataset
from dropflow.errors import RejectedError
from dropflow.objects import ObjectRef, printable
from dropflow.quality import DriftLine, StepDone
from dropflow.storage import ObjectStore
from flows import checkpoints, contract, drift, reading, splitting, steps
from flows.checkpoints import Checkpoints
from flows.contract import Checked
from flows.drift import ColumnReference
from flows.preprocessors import Preprocessor

Stage = Callable[..., Any]
"""Called as stage(title, function, *arguments); returns what the function does."""
LONG_STEP = 2.0
"""Seconds after which what a step has produced is kept for a next attempt."""


@dataclass(frozen=True)
class Transformed:
    """A frame after all steps, and all there is to tell about how it came about."""

    frame: pd.DataFrame
    raw_rows: int
    checked: Checked
    filtered: int
    steps: tuple[StepDone, ...]
    drift: tuple[DriftLine, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Learnt:
    """What fitting on one object gives: a fitted transformer a step, and how the columns were."""

    fitted: list[Any]
    rows: int
    reference: dict[str, ColumnReference]


@dataclass(frozen=True)
class Transformation:
    """How the objects of one run are transformed; `stage` decides how each stage is run."""

    store: ObjectStore
    dataset: Dataset
    stage: Stage

    @cached_property
    def _checkpoints(self) -> frozenset[str]:
        return checkpoints.keys(self.store, self.dataset)

    def learn(self, ref: ObjectRef, content: bytes) -> Learnt:
        """Fit every step on the object. Raises RejectedError."""
        frame = self.stage("parse", parse, content, ref.key, self.dataset)
        checked = self.stage("validate", contract.check, frame, self.dataset)
        good = steps.prepared(checked.good, self.dataset)
        learn_from = splitting.train_rows(good, self.dataset)
        fitted = []
        frame = good
        for step in self.dataset.steps:
            title = f"fit {steps.title(step)}"
            frame, one, _ = self.stage(title, steps.apply, frame, step, self.dataset, learn_from)
            fitted.append(one)
        watched = checked.good[_watched(checked.good, self.dataset)]
        return Learnt(fitted, len(good), drift.learn(watched))

    def transform(self, ref: ObjectRef, content: bytes, preprocessor: Preprocessor | None) -> Transformed:
        """Parse, validate, carry out every step. Raises RejectedError."""
        raw = self.stage("parse", parse, content, ref.key, self.dataset)
        checked = self.stage("validate", contract.check, raw, self.dataset)
        lines, warnings = _drifted(checked.good, self.dataset, preprocessor)
        good = steps.prepared(checked.good, self.dataset)
        frame, done, unknown = self._steps(ref, good, preprocessor)
        frame = splitting.with_split(frame, splitting.train_rows(good, self.dataset))
        return Transformed(
            frame=frame,
            raw_rows=len(raw),
            checked=checked,
            filtered=len(checked.good) - len(frame),
            steps=tuple(done),
            drift=tuple(lines),
            warnings=(*warnings, *unknown),
        )

    def _steps(
        self, ref: ObjectRef, frame: pd.DataFrame, preprocessor: Preprocessor | None
    ) -> tuple[pd.DataFrame, list[StepDone], list[str]]:
        """The frame after all steps, those of an earlier attempt taken over."""
        fitted_as = preprocessor.card.sha256 if preprocessor else ""
        kept = Checkpoints(self.store, self.dataset, ref, fitted_as, lambda: self._checkpoints)
        learn_from = splitting.train_rows(frame, self.dataset)
        done: list[StepDone] = []
        unknown: list[str] = []
        first, frame = self.stage("reuse", kept.latest) or (0, frame)
        for number, step in enumerate(self.dataset.steps):
            if number < first:
                done.append(StepDone(name=step.kind, detail="taken from an earlier attempt", seconds=0))
                continue
            started = time.perf_counter()
            fitted = preprocessor.steps[number] if preprocessor else None
            if fitted is not None:
                unknown += _unknown_categories(frame, fitted, self.dataset)
            try:
                title = steps.title(step)
                after, _, detail = self.stage(
                    title, steps.apply, frame, step, self.dataset, learn_from, fitted
                )
            except Exception:
                if number > first:
                    kept.keep(number, frame)
                raise
            seconds = time.perf_counter() - started
            frame = after
            done.append(StepDone(name=step.kind, detail=detail, seconds=round(seconds, 4)))
            if seconds > LONG_STEP:
                kept.keep(number + 1, frame)
        return frame, done, unknown


def _drifted(
    frame: pd.DataFrame, dataset: Dataset, preprocessor: Preprocessor | None
) -> tuple[list[DriftLine], list[str]]:
    """How far the frame is from the reference, and warnings. Raises RejectedError where that is declared."""
    if preprocessor is None or dataset.drift.then == "ignore":
        return [], []
    lines = drift.compare(preprocessor.card.reference, frame[_watched(frame, dataset)], dataset.drift)
    flagged = [line for line in lines if line.flagged]
    if not flagged:
        return lines, []
    words = ", ".join(_drift_in_words(line) for line in flagged[:5])
    more = f" and {len(flagged) - 5} more" if len(flagged) > 5 else ""
    told = f"drifted from the reference {preprocessor.card.label}: {words}{more}"
    if dataset.drift.then == "reject":
        raise RejectedError(told)
    return lines, [told]


def _watched(frame: pd.DataFrame, dataset: Dataset) -> list[str]:
    """Columns whose drift matters: those the recipe uses, but for free text and the times of things."""
    dropped = {name for step in dataset.steps for name in step.drop or ()}
    kinds = ("number", "category", "boolean")
    used = {name for name, column in dataset.columns.items() if column.type in kinds} - dropped
    return [name for name in frame.columns if name in used]


def _drift_in_words(line: DriftLine) -> str:
    ks = "" if line.ks is None else f", KS {line.ks:.2f}"
    return f"{printable(line.column, 40)} (PSI {line.psi:.2f}{ks})"


def _unknown_categories(frame: pd.DataFrame, fitted: Any, dataset: Dataset) -> list[str]:
    """Warnings of categories that nobody was fitted on. Raises RejectedError where that is declared."""
    found = fitted.unknown(frame) if hasattr(fitted, "unknown") else {}
    told = [
        f"column {name}: {count:,} values of categories not known to the reference"
        for name, count in found.items()
    ]
    if told and dataset.unknown_categories == "reject":
        raise RejectedError("; ".join(told))
    return told


def parse(content: bytes, key: str, dataset: Dataset) -> pd.DataFrame:
    """The content as a frame, by its format. Raises RejectedError."""
    numbers = [name for name, column in dataset.columns.items() if column.type == "number"]
    frame = reading.read(content, key, dataset.read, numbers)
    # pandas has names of Arrow's: each look at a column takes three times as long as by plain ones.
    frame.columns = frame.columns.astype(object)
    return frame
