"""A dataset's recipe with the parameters of one run: what a Custom run in the UI changes."""

from collections.abc import Collection

from pydantic import ValidationError

from dropflow.datasets import Dataset
from dropflow.errors import SettingsError


def apply(dataset: Dataset, imputation: str, test_size: float | None, skip: Collection[str]) -> Dataset:
    """Another way to fill gaps in numbers, another split, some steps left out.

    Raises SettingsError when the recipe makes no sense any more.
    """
    changed = dataset.model_dump(mode="json", exclude_unset=True)
    changed["steps"] = [
        step.model_dump(mode="json", exclude_unset=True) for step in dataset.steps if step.kind not in skip
    ]
    if imputation != "as declared":
        for step in changed["steps"]:
            if "impute" in step:
                step["impute"] = _numbers_by(imputation, step["impute"], dataset)
    if test_size is not None:
        if dataset.split is None:
            raise SettingsError(f"test_size: {dataset.name} declares no `split:`")
        changed["split"]["test_size"] = test_size
    try:
        return Dataset.model_validate(changed)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        said = str(problem["msg"]).removeprefix("Value error, ")
        raise SettingsError(f"with these parameters the recipe of {dataset.name} is wrong: {said}") from error


def _numbers_by(method: str, ways: dict[str, object], dataset: Dataset) -> dict[str, object]:
    numbers = {name for name, column in dataset.columns.items() if column.type == "number"}
    return {name: method if name in numbers else way for name, way in ways.items()}
