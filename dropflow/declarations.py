"""Dataset files: YAML to Dataset; an error names file, line, field and what was expected."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from dropflow.datasets import Dataset, Datasets
from dropflow.errors import DatasetError
from dropflow.words import did_you_mean

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same, by libyaml where it is there: each run reads the datasets, and saves 50 ms."""
TAGS = ("way", "constant")
"""Of the union in recipes.py: no part of the file."""


def load_datasets(folder: Path, prefixes: Collection[str] = ("",)) -> Datasets:
    """Read every `*.yaml` in `folder`. Raises DatasetError naming file, line and what was expected.

    A dataset takes no key outside `prefixes`.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}: set DROPFLOW_DATASETS_DIR")
    datasets: dict[str, Dataset] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            dataset = load_dataset(path)
        except DatasetError as error:
            problems.append(str(error))
            continue
        if dataset.name in datasets:
            problems.append(f"{path}: another file already declares the dataset {dataset.name!r}")
        datasets[dataset.name] = dataset
    problems += _loops(datasets, folder)
    problems += _outside(datasets, folder, prefixes)
    if problems:
        raise DatasetError("\n".join(problems))
    if not datasets:
        raise DatasetError(f"{folder} has no *.yaml: every dataset is one file there")
    return Datasets(datasets, _outermost(prefixes))


def _outermost(prefixes: Collection[str]) -> tuple[str, ...]:
    """Without those that lie below another: nothing is listed twice."""
    return tuple(
        one
        for one in sorted(prefixes)
        if not any(one != other and one.startswith(other) for other in prefixes)
    )


def _outside(datasets: dict[str, Dataset], folder: Path, prefixes: Collection[str]) -> Iterator[str]:
    for name, dataset in datasets.items():
        if not dataset.prefix.startswith(tuple(prefixes)):
            yield (
                f"{folder / name}.yaml: match: {dataset.match} lies outside DROPFLOW_PREFIXES "
                f"({' '.join(prefixes)}), which are all that this Dropflow looks at"
            )


def _loops(datasets: dict[str, Dataset], folder: Path) -> Iterator[str]:
    """Outputs must never land where another dataset takes its input."""
    for name, dataset in datasets.items():
        for other in datasets.values():
            if dataset.output_bucket == other.bucket and other is not dataset:
                yield (
                    f"{folder / name}.yaml: outputs go to {dataset.output_bucket!r}, where the dataset "
                    f"{other.name!r} takes its input; choose another output_bucket"
                )


def load_dataset(path: Path) -> Dataset:
    """Read one dataset file. Raises DatasetError."""
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=LOADER)  # noqa: S506 - a safe one
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}:1: expected a mapping with name, match, columns and steps")
    try:
        return Dataset.model_validate(content)
    except ValidationError as error:
        lines = [
            f"{path}:{_line(text, p['loc'])}: {_problem(dict(p))}" for p in error.errors(include_url=False)
        ]
        raise DatasetError("\n".join(dict.fromkeys(lines))) from error


def _problem(problem: dict[str, Any]) -> str:
    loc = [str(part) for part in problem["loc"] if part not in TAGS]
    where = ".".join(loc)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = _fields_at(loc[:-1])
        return f"{where}: unknown field{did_you_mean(loc[-1], known)} (expected {', '.join(known)})"
    if problem["type"] == "missing":
        return f"{where}: this field is required"
    if problem["type"] == "literal_error":
        # get_close_matches needs the plain words, which pydantic quotes in `expected`.
        words = re.findall(r"'([^']*)'", str(problem["ctx"]["expected"]))
        return f"{where}: expected {', '.join(words)}{did_you_mean(str(problem['input']), words)}"
    return f"{where}: {message}" if where else message


def _fields_at(loc: list[str]) -> list[str]:
    """The fields of the innermost model on the way."""
    model: type[BaseModel] = Dataset
    for part in loc:
        if part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _line(text: str, loc: tuple[Any, ...]) -> int:
    """The line (from 1) of the innermost node of `loc` that the file has."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
