"""Datasets: which objects belong to a kind of file, what they must look like, how they are prepared."""

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from wcmatch import glob

from dropflow.errors import DatasetError

Imputation = Literal["mean", "median", "most_frequent"]
Encoding = Literal["onehot", "ordinal"]
Scaling = Literal["standard", "minmax", "robust"]
ColumnName = Annotated[str, StringConstraints(min_length=1)]

GLOB_FLAGS = glob.GLOBSTAR | glob.BRACE | glob.DOTGLOB | glob.FORCEUNIX | glob.CASE
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
_SPAN = re.compile(r"[0-9]+(\.[0-9]+)?[smh]")
_MAGIC = re.compile(r"[*?\[{!]")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Strict):
    """What one column must hold. `min` and `max` are inclusive; `values` lists the categories."""

    type: Literal["number", "category", "text"]
    min: float | None = None
    max: float | None = None
    values: tuple[str, ...] | None = None
    nullable: bool = False

    @model_validator(mode="after")
    def _fitting_options(self) -> Self:
        if self.type != "number" and (self.min is not None or self.max is not None):
            raise ValueError("min and max belong to columns of type number")
        if self.type != "category" and self.values is not None:
            raise ValueError("values belong to columns of type category")
        return self


class Scale(_Strict):
    """Scale numeric columns: standard (mean 0, deviation 1), minmax (0 to 1) or robust (quartiles)."""

    method: Scaling = "standard"
    columns: tuple[ColumnName, ...] = Field(min_length=1)


class Step(_Strict):
    """One step of a recipe: exactly one of the fields is set."""

    drop: tuple[ColumnName, ...] | None = None
    impute: dict[ColumnName, Imputation] | None = None
    encode: dict[ColumnName, Encoding] | None = None
    scale: Scale | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self.model_fields_set) != 1 or not self.options:
            raise ValueError(f"expected exactly one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def kind(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def options(self) -> Any:
        return getattr(self, self.kind)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.options.columns if self.scale else tuple(self.options)


class Readiness(_Strict):
    """When an object may be prepared: immediately, once its key is quiet, or once a marker is there."""

    quiet_seconds: float = Field(0, ge=0, le=86_400)
    marker: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match value.split():
            case ["immediately"]:
                return {}
            case ["quiet", span] if _SPAN.fullmatch(span):
                return {"quiet_seconds": float(span[:-1]) * {"s": 1, "m": 60, "h": 3600}[span[-1]]}
            case ["marker", name] if "/" not in name:
                return {"marker": name}
        raise ValueError("expected immediately, quiet 30s (or 5m, 1h), or marker NAME (a plain file name)")


class Dataset(_Strict):
    """A named kind of file, as `datasets/<name>.yaml` declares it."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    description: str = ""
    match: str = Field(description="bucket/key glob; ** spans folders, {a,b} means either")
    output_bucket: Annotated[str, StringConstraints(pattern=_BUCKET)] = "processed"
    columns: dict[ColumnName, Column] = Field(min_length=1)
    unknown_columns: Literal["drop", "keep", "reject"] = "drop"
    target: ColumnName | None = None
    steps: tuple[Step, ...] = Field(min_length=1)
    ready: Readiness = Field(default_factory=Readiness)
    schedule: str | None = Field(None, description="cron; every run prepares what has no receipt yet")
    timezone: str = "UTC"

    @field_validator("match")
    @classmethod
    def _bucket_and_glob(cls, match: str) -> str:
        bucket, slash, key = match.partition("/")
        if not slash or not key or not _BUCKET.fullmatch(bucket):
            raise ValueError("expected bucket/key-glob with a plain bucket, for example raw/churn/**/*.csv")
        return match

    @model_validator(mode="after")
    def _outputs_elsewhere(self) -> Self:
        if self.output_bucket == self.bucket:
            raise ValueError(
                f"match and output_bucket both use the bucket {self.bucket!r}: outputs would trigger "
                "the pipeline again; choose another output_bucket"
            )
        return self

    @model_validator(mode="after")
    def _known_columns(self) -> Self:
        """Follow the columns through the steps, so that a typo is found before a file arrives."""
        present = set(self.columns)
        for number, step in enumerate(self.steps, 1):
            for column in step.columns:
                # Columns the contract does not list can only pass through untouched.
                if column not in present:
                    raise ValueError(
                        f"step {number} ({step.kind}) names the column {column!r}, which is not there "
                        f"at that point{did_you_mean(column, present)}"
                    )
            self._check_types(number, step)
            gone = step.drop or [c for c, how in (step.encode or {}).items() if how == "onehot"]
            present -= set(gone)
        if self.target and self.target not in present:
            raise ValueError(f"target {self.target!r} is no column of the output")
        return self

    def _check_types(self, number: int, step: Step) -> None:
        encoded = {c for s in self.steps[: number - 1] for c in s.encode or {}}
        numeric = step.scale.columns if step.scale else ()
        numeric += tuple(c for c, how in (step.impute or {}).items() if how != "most_frequent")
        for column in numeric:
            if self.columns[column].type != "number" and column not in encoded:
                raise ValueError(
                    f"step {number} ({step.kind}) needs numbers, but {column!r} is of type "
                    f"{self.columns[column].type}"
                )

    @property
    def bucket(self) -> str:
        """The bucket raw objects arrive in."""
        return self.match.partition("/")[0]

    @property
    def prefix(self) -> str:
        """The folder that every matching key lies in: `churn/` for raw/churn/**/*.csv."""
        pattern = self.match.partition("/")[2]
        magic = _MAGIC.search(pattern)
        folder = pattern[: magic.start() if magic else None].rpartition("/")[0]
        return f"{folder}/" if folder else ""

    def matches(self, bucket: str, key: str) -> bool:
        return any(p.fullmatch(f"{bucket}/{key}") for p in self._patterns)

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        return [re.compile(p) for p in glob.translate(self.match, flags=GLOB_FLAGS)[0]]

    def output_key(self, key: str) -> str:
        """Where the prepared object goes: <dataset>/<path below the prefix without ending>.parquet.

        Distinct keys of the dataset never share an output: an ending other than the pattern's own
        stays in the name.
        """
        path = key.removeprefix(self.prefix)
        folder, slash, name = path.rpartition("/")
        suffix = "." + self.match.rpartition("*.")[2] if "*." in self.match else ""
        stem = name.removesuffix(suffix) if suffix and not _MAGIC.search(suffix) else name
        return f"{self.name}/{folder}{slash}{stem}.parquet"

    def marker_key(self, key: str) -> str:
        """The marker of the key's folder, with `ready: marker NAME`."""
        folder, slash, _ = key.rpartition("/")
        return f"{folder}{slash}{self.ready.marker}"

    def source_key(self, output_key: str) -> str | None:
        """A key whose output this is; None when no key of the dataset has such an output."""
        path = output_key.removeprefix(f"{self.name}/").removesuffix(".parquet")
        suffix = "." + self.match.rpartition("*.")[2] if "*." in self.match else ""
        candidates = (f"{self.prefix}{path}{suffix}", f"{self.prefix}{path}")
        return next((key for key in candidates if self.output_key(key) == output_key), None)


def canary_prefix(dataset: Dataset) -> str:
    """Where the listener drops the objects by which it tests the whole path."""
    return f"{dataset.prefix}_canary/"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True)
class Datasets:
    """All datasets by name."""

    by_name: dict[str, Dataset]

    def __getitem__(self, name: str) -> Dataset:
        """Raises DatasetError naming the datasets there are."""
        if name not in self.by_name:
            known = ", ".join(self.by_name) or "none"
            raise DatasetError(
                f"there is no dataset {name!r}{did_you_mean(name, self.by_name)} (datasets: {known})"
            )
        return self.by_name[name]

    @property
    def raw_buckets(self) -> list[str]:
        return sorted({dataset.bucket for dataset in self.by_name.values()})

    @property
    def output_buckets(self) -> list[str]:
        return sorted({dataset.output_bucket for dataset in self.by_name.values()})

    @property
    def buckets(self) -> list[str]:
        return sorted({*self.raw_buckets, *self.output_buckets})

    def find(self, bucket: str, key: str) -> tuple[Dataset | None, str]:
        """The one dataset an object belongs to, or None and the reason why there is none."""
        found = [d for d in self.by_name.values() if d.matches(bucket, key)]
        if len(found) == 1:
            return found[0], ""
        if found:
            names = " and ".join(d.name for d in found)
            return None, f"belongs to several datasets ({names}): make their match patterns disjoint"
        patterns = ", ".join(f"{d.name}: {d.match}" for d in self.by_name.values())
        return None, f"outside every dataset ({patterns})"


def load_datasets(folder: Path) -> Datasets:
    """Read every `*.yaml` in `folder`. Raises DatasetError naming file, line and what was expected."""
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
    if problems:
        raise DatasetError("\n".join(problems))
    if not datasets:
        raise DatasetError(f"{folder} has no *.yaml: every dataset is one file there")
    return Datasets(datasets)


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
        content = yaml.safe_load(text)
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
    loc = [str(part) for part in problem["loc"]]
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
    model: type[BaseModel] = Dataset
    for part in loc:
        if part in model.model_fields:
            inner = [c for c in (Column, Step, Scale) if c.__name__ in str(model.model_fields[part])]
            model = inner[0] if inner else model
    return list(model.model_fields)


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
