"""Training: the `train:` section of a dataset file. What it means is in flows/training.py."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

ModelKind = Literal[
    "random_forest",
    "logistic_regression",
    "gradient_boosting",
    "linear_regression",
    "ridge",
    "decision_tree",
]
Task = Literal["classification", "regression"]
SelectBy = Literal["f_test", "mutual_info", "importance"]
Metric = Literal["accuracy", "f1", "precision", "recall", "roc_auc", "rmse", "mae", "r2"]
ColumnName = Annotated[str, StringConstraints(min_length=1)]

METRICS: dict[Task, tuple[Metric, ...]] = {
    # F1 first, as the first decides which model is better: accuracy praises whoever says "nobody leaves".
    "classification": ("f1", "accuracy", "precision", "recall", "roc_auc"),
    "regression": ("rmse", "mae", "r2"),
}
"""Every metric of a task, by default in this order."""
LOWER_IS_BETTER: frozenset[Metric] = frozenset({"rmse", "mae"})
ONE_TASK: dict[ModelKind, Task] = {
    "logistic_regression": "classification",
    "linear_regression": "regression",
    "ridge": "regression",
}
"""The models that can do one task only; all others do both."""
RESERVED = frozenset({"random_state", "warm_start", "verbose"})
"""Options that are not for dataset files: `seed` says the first, the others do nothing here."""


class Training(BaseModel):
    """How a dataset's model is trained and judged.

    `options` go to scikit-learn's estimator. `select` keeps that many features; `test_size` is a share of
    the rows. `better_by` decides whether a new model beats the best so far; by default the first metric.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelKind
    task: Literal["auto", "classification", "regression"] = "auto"
    options: dict[str, Any] = Field(default_factory=dict)
    select: int | None = Field(None, ge=1, strict=True)
    # The F-test by default: one pass over the data, no randomness, nothing to tune. mutual_info sees
    # relations that bend, importance those between features, both at many times the price.
    by: SelectBy = "f_test"
    test_size: float = Field(0.33, gt=0, lt=1)
    stratify: bool = Field(default=True, strict=True)
    seed: int = Field(42, ge=0, lt=2**32, strict=True)
    metrics: tuple[Metric, ...] = ()
    baseline: bool = Field(default=True, strict=True)
    better_by: Metric | None = None
    exclude: tuple[ColumnName, ...] = ()
    features: tuple[ColumnName, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_task(self) -> Self:
        only = ONE_TASK.get(self.model)
        if only and self.task not in ("auto", only):
            raise ValueError(f"model {self.model} does {only} only, not {self.task}")
        return self

    @model_validator(mode="after")
    def _metrics_of_one_task(self) -> Self:
        asked = self._asked
        fitting = [task for task, known in METRICS.items() if set(asked) <= set(known)]
        if not fitting:
            raise ValueError(
                f"the metrics {', '.join(asked)} are of different tasks: classification has "
                f"{', '.join(METRICS['classification'])}; regression {', '.join(METRICS['regression'])}"
            )
        task = self.known_task
        if task and task not in fitting:
            wrong = next(metric for metric in asked if metric not in METRICS[task])
            raise ValueError(f"{wrong} is no metric of {task} (expected {', '.join(METRICS[task])})")
        return self

    @model_validator(mode="after")
    def _plain_options(self) -> Self:
        if reserved := sorted(RESERVED & set(self.options)):
            hint = ": say seed" if reserved[0] == "random_state" else ""
            raise ValueError(f"options cannot say {reserved[0]}{hint}")
        return self

    @model_validator(mode="after")
    def _no_column_twice(self) -> Self:
        if both := sorted(set(self.exclude) & set(self.features or ())):
            raise ValueError(f"the column {both[0]!r} is in features and in exclude")
        return self

    @property
    def _asked(self) -> tuple[Metric, ...]:
        """The metrics the file names, each once."""
        more = (self.better_by,) if self.better_by else ()
        return tuple(dict.fromkeys((*self.metrics, *more)))

    @property
    def known_task(self) -> Task | None:
        """The task as far as the file settles it, without looking at data."""
        return self.task if self.task != "auto" else ONE_TASK.get(self.model)

    def metrics_of(self, task: Task) -> tuple[Metric, ...]:
        """The metrics to take, with `better_by` among them. Those of the other task are left out."""
        asked = self._asked if self.metrics else (*METRICS[task], *self._asked)
        return tuple(dict.fromkeys(metric for metric in asked if metric in METRICS[task]))

    def decisive(self, task: Task) -> Metric:
        """The metric by which models of this task are compared."""
        return self.better_by if self.better_by in METRICS[task] else self.metrics_of(task)[0]


def is_better(metric: Metric, value: float | None, than: float | None) -> bool:
    """Whether `value` beats `than`, None being no measurement. A tie keeps what there is."""
    if value is None or than is None:
        return value is not None
    return value < than if metric in LOWER_IS_BETTER else value > than
