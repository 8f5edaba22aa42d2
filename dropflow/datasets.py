"""Datasets: which objects belong to a kind of file, what they must look like, how they are prepared."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from dropflow.columns import Column, ColumnName, Known, Strict
from dropflow.errors import DatasetError
from dropflow.expecting import Cron, Expect, Timezone
from dropflow.formats import Reading
from dropflow.globs import Glob
from dropflow.notifying import Notify
from dropflow.objects import CANARIES
from dropflow.recipes import Step
from dropflow.trainings import Training
from dropflow.words import did_you_mean

_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
_SPAN = re.compile(r"[0-9]+(\.[0-9]+)?[smh]")
_FUNCTION = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
_VERSION = re.compile(r"v[1-9][0-9]*")
_MAGIC = re.compile(r"[*?\[{!]")


class Readiness(Strict):
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


class Fit(Strict):
    """Whether every file is fitted on its own, or one file teaches and the others are only transformed."""

    mode: Literal["each", "reference"] = "each"
    version: int | None = Field(None, ge=1, description="the one preprocessor to use; None: the latest")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match value.split():
            case ["each" | "reference" as mode]:
                return {"mode": mode}
            case ["reference", version] if _VERSION.fullmatch(version):
                return {"mode": "reference", "version": int(version[1:])}
        raise ValueError("expected each, reference, or reference v3 (one version for good)")


class Drift(Strict):
    """How far a file may be from the reference: PSI of the binned column, KS of the two distributions."""

    psi: float = Field(0.25, gt=0)
    ks: float = Field(0.2, gt=0, le=1)
    then: Literal["warn", "reject", "ignore"] = "warn"


class Split(Strict):
    """A column `split` says train or test; everything that is fitted is fitted on train."""

    test_size: float = Field(0.33, gt=0, lt=1)
    stratify: ColumnName | None = None
    seed: int = 42


class Quarantine(Strict):
    """Rows that break the contract are set aside; with more than this share the file is rejected."""

    max_share: float = Field(0.05, ge=0, le=1)


class Output(Strict):
    """The prepared object's format; categories of CSV are text."""

    format: Literal["parquet", "csv", "arrow"] = "parquet"

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"format": value} if isinstance(value, str) else value


class Dataset(Strict):
    """A named kind of file, as `datasets/<name>.yaml` declares it."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    description: str = ""
    match: str = Field(description="bucket/key glob; ** spans folders, {a,b} means either")
    output_bucket: Annotated[str, StringConstraints(pattern=_BUCKET)] = "processed"
    columns: dict[ColumnName, Column] = Field(min_length=1)
    unknown_columns: Literal["drop", "keep", "reject"] = "drop"
    missing_columns: Literal["reject", "fill"] = Field("reject", description="fill: nullable ones with gaps")
    column_order: Literal["any", "declared"] = "any"
    quarantine: Quarantine = Field(default_factory=Quarantine)
    read: Reading = Field(default_factory=Reading)
    prepare: Annotated[str, StringConstraints(pattern=_FUNCTION)] | None = Field(
        None, description="module:function, from frame to frame, before the steps"
    )
    target: ColumnName | None = None
    steps: tuple[Step, ...] = ()
    split: Split | None = None
    fit: Fit = Field(default_factory=Fit)
    unknown_categories: Literal["warn", "reject"] = "warn"
    drift: Drift = Field(default_factory=Drift)
    output: Output = Field(default_factory=Output)
    train: Training | None = None
    ready: Readiness = Field(default_factory=Readiness)
    schedule: Cron | None = Field(None, description="cron; every run prepares what has no receipt yet")
    expect: Expect | None = Field(None, description="by when a file is due; it is told when none came")
    timezone: Timezone = "UTC"
    notify: Notify = Field(default_factory=Notify)

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
        known = {name: Known(c.type, c.nullable) for name, c in self.columns.items()}
        if self.prepare:
            # A function may add what it likes.
            known["*"] = Known("number")
        for number, step in enumerate(self.steps, 1):
            try:
                known = step.follow(known, self.target)
            except ValueError as error:
                raise ValueError(f"step {number} ({step.kind}) {error}") from error
        if self.target and not {self.target, f"{self.target}_*", "*"} & known.keys():
            raise ValueError(f"target {self.target!r} is no column of the output")
        if self.split and self.split.stratify not in {None, *self.columns} and not self.prepare:
            near = did_you_mean(str(self.split.stratify), self.columns)
            raise ValueError(f"split: there is no column {self.split.stratify!r} to stratify by{near}")
        if self.split and "split" in known:
            raise ValueError("split: the output has a column of that name already: rename or drop it")
        return self

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
        return self._glob.matches(f"{bucket}/{key}")

    @cached_property
    def _glob(self) -> Glob:
        return Glob(self.match)

    def output_key(self, key: str) -> str:
        """Where the prepared object goes: <dataset>/<path below the prefix without ending>.<format>.

        Distinct keys of the dataset never share an output: an ending other than the pattern's own
        stays in the name.
        """
        path = key.removeprefix(self.prefix)
        folder, slash, name = path.rpartition("/")
        suffix = "." + self.match.rpartition("*.")[2] if "*." in self.match else ""
        stem = name.removesuffix(suffix) if suffix and not _MAGIC.search(suffix) else name
        return f"{self.name}/{folder}{slash}{stem}.{self.output.format}"

    def marker_key(self, key: str) -> str:
        """The marker of the key's folder, with `ready: marker NAME`."""
        folder, slash, _ = key.rpartition("/")
        return f"{folder}{slash}{self.ready.marker}"

    def source_key(self, output_key: str) -> str | None:
        """A key whose output this is; None when no key of the dataset has such an output."""
        path = output_key.removeprefix(f"{self.name}/").removesuffix(f".{self.output.format}")
        suffix = "." + self.match.rpartition("*.")[2] if "*." in self.match else ""
        candidates = (f"{self.prefix}{path}{suffix}", f"{self.prefix}{path}")
        return next((key for key in candidates if self.output_key(key) == output_key), None)


def canary_prefix(dataset: Dataset) -> str:
    """Where the listener drops the objects by which it tests the whole path."""
    return f"{dataset.prefix}{CANARIES}"


@dataclass(frozen=True)
class Datasets:
    """All datasets by name, and the part of their raw buckets that is answered for here."""

    by_name: dict[str, Dataset]
    prefixes: tuple[str, ...] = ("",)
    """Keys that begin like one of these; none of them begins like another."""

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

    def covers(self, key: str) -> bool:
        """Whether such a raw object is to have a fate here, and not in another Dropflow."""
        return key.startswith(self.prefixes)

    def find(self, bucket: str, key: str) -> tuple[Dataset | None, str]:
        """The one dataset an object belongs to, or None and the reason why there is none."""
        found = [d for d in self.by_name.values() if d.matches(bucket, key)]
        if len(found) == 1:
            return found[0], ""
        if found:
            names = " and ".join(d.name for d in found)
            return None, f"belongs to several datasets ({names}): make their match patterns disjoint"
        if not self.covers(key):
            return None, f"another Dropflow's: this one has what lies below {' or '.join(self.prefixes)}"
        patterns = ", ".join(f"{d.name}: {d.match}" for d in self.by_name.values())
        return None, f"outside every dataset ({patterns})"
