"""Recipes: the ordered steps of a preparation, and what each does to the columns.

Every step can be followed without data: a typo, a wrong type or a gap that a step cannot take is found
by `dropflow check`, before a file arrives.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_serializer, model_validator
from pydantic_core import to_jsonable_python

from dropflow.columns import ColumnName, ColumnType, Known, Strict
from dropflow.words import did_you_mean

Imputation = Literal["mean", "median", "most_frequent", "knn"]
Encoding = Literal["onehot", "ordinal", "target", "frequency", "dict"]
Scaling = Literal["standard", "minmax", "robust", "power"]
DatePart = Literal["year", "quarter", "month", "day", "weekday", "hour", "minute", "dayofyear"]
Unit = Literal["seconds", "minutes", "hours", "days"]

DICT_SEPARATOR = "="
"""Between column and value in the names that a dict-vectorizer gives, as in scikit-learn."""


class Constant(Strict):
    """A value that stands in every gap."""

    constant: float | str


Filling = Annotated[
    Annotated[Imputation, Tag("way")] | Annotated[Constant, Tag("constant")],
    Discriminator(lambda value: "constant" if isinstance(value, dict | Constant) else "way"),
]


class Derivation(Strict):
    """A new column, or several of a date: exactly one of the fields that name columns is set."""

    difference: tuple[ColumnName, ColumnName] | None = Field(None, description="the first minus the second")
    ratio: tuple[ColumnName, ColumnName] | None = Field(None, description="a gap where the second is 0")
    concat: tuple[ColumnName, ...] | None = Field(None, min_length=2)
    parts: tuple[DatePart, ...] | None = Field(None, min_length=1)
    of: ColumnName | None = Field(None, description="the datetime that `parts` are of")
    unit: Unit = Field("seconds", description="of a difference of datetimes")
    separator: str = "_"

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(bool(x) for x in (self.difference, self.ratio, self.concat, self.parts)) != 1:
            raise ValueError("expected exactly one of difference, ratio, concat, parts")
        if bool(self.parts) != bool(self.of):
            raise ValueError("parts and of belong together: {parts: [month, weekday], of: pickup}")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        return self.difference or self.ratio or self.concat or (self.of or "",)

    def names(self, name: str) -> list[str]:
        """The columns it makes: `name`, or one for each part of a date."""
        return [f"{name}_{part}" for part in self.parts] if self.parts else [name]


class Condition(Strict):
    """Which rows stay: all that is given must hold. A gap holds nothing but `gaps: keep`."""

    min: float | None = None
    max: float | None = None
    values: tuple[str | float, ...] | None = None
    gaps: Literal["keep", "drop"] = "drop"


class Scale(Strict):
    """standard (mean 0, deviation 1), minmax (0 to 1), robust (quartiles) or power (Yeo-Johnson)."""

    method: Scaling = "standard"
    columns: tuple[ColumnName, ...] = Field(min_length=1)


class Clip(Strict):
    """Outliers move to the bounds: given, quantiles, or quartiles ± `iqr` times their distance."""

    min: float | None = None
    max: float | None = None
    quantiles: tuple[float, float] | None = None
    iqr: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = self.min is not None or self.max is not None
        if sum((given, self.quantiles is not None, self.iqr is not None)) != 1:
            raise ValueError("expected exactly one of min/max, quantiles, iqr")
        if self.quantiles and not 0 <= self.quantiles[0] < self.quantiles[1] <= 1:
            raise ValueError("quantiles: expected two rising numbers from 0 to 1, such as [0.01, 0.99]")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self


class Bin(Strict):
    """Numbers become the index of their bin, from 0."""

    bins: int | None = Field(None, ge=2, le=1000)
    strategy: Literal["quantile", "uniform", "kmeans"] = "quantile"
    edges: tuple[float, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.bins is None) == (self.edges is None):
            raise ValueError("expected either bins or edges")
        if self.edges and list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges: expected rising numbers")
        return self


class Select(Strict):
    """Keep some columns, besides the target: by name, or the `top` by what they tell about the target."""

    columns: tuple[ColumnName, ...] | None = None
    top: int | None = Field(None, ge=1)
    by: Literal["f_test", "mutual_info", "variance"] = "f_test"

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return {"columns": value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.columns is None) == (self.top is None):
            raise ValueError("expected either a list of columns, or top: N")
        return self


class Step(Strict):
    """One step of a recipe: exactly one of the fields is set."""

    drop: tuple[ColumnName, ...] | None = None
    rename: dict[ColumnName, ColumnName] | None = None
    cast: dict[ColumnName, ColumnType] | None = None
    derive: dict[ColumnName, Derivation] | None = None
    filter: dict[ColumnName, Condition] | None = None
    impute: dict[ColumnName, Filling] | None = None
    encode: dict[ColumnName, Encoding] | None = None
    scale: Scale | None = None
    clip: dict[ColumnName, Clip] | None = None
    bin: dict[ColumnName, Bin] | None = None
    select: Select | None = None

    @field_validator("drop", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self.model_fields_set) != 1 or not self.options:
            raise ValueError(f"expected exactly one of {', '.join(type(self).model_fields)}")
        return self

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {self.kind: to_jsonable_python(self.options)}

    @property
    def kind(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def options(self) -> Any:
        return getattr(self, self.kind)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it names that must be there."""
        if self.derive:
            return tuple(dict.fromkeys(c for d in self.derive.values() for c in d.sources))
        if self.select:
            return self.select.columns or ()
        return self.options.columns if self.scale else tuple(self.options)

    def follow(self, columns: Mapping[str, Known], target: str | None) -> dict[str, Known]:
        """The columns after this step, given those before. Raises ValueError with what cannot be."""
        for name in self.columns:
            if name not in columns and not _made_by_encoding(name, columns):
                raise ValueError(
                    f"names the column {name!r}, which is not there at that point"
                    f"{did_you_mean(name, columns)}"
                )
        return _FOLLOW[self.kind](self, dict(columns), target)


StepKind = Literal[
    "drop", "rename", "cast", "derive", "filter", "impute", "encode", "scale", "clip", "bin", "select"
]


def _made_by_encoding(name: str, columns: Iterable[str]) -> bool:
    """Whether a step before may have made it of a category nobody declared: `Geography_*`."""
    return any(known.endswith("*") and name.startswith(known[:-1]) for known in columns)


def _need(what: str, names: Iterable[str], columns: Mapping[str, Known], *, filled: bool = False) -> None:
    """Refuse columns of the wrong type, or with gaps."""
    for name in names:
        known = columns.get(name)
        if known is None:
            continue
        if what == "numbers" and not known.numeric:
            raise ValueError(f"needs numbers, but {name!r} is of type {known.type}")
        if what == "datetimes" and known.type != "datetime":
            raise ValueError(f"needs a datetime, but {name!r} is of type {known.type}")
        if filled and known.gaps:
            raise ValueError(f"cannot take gaps, and {name!r} may have some: impute it before")


def _drop(step: Step, columns: dict[str, Known], _target: str | None) -> dict[str, Known]:
    gone = set(step.drop or ())
    return {name: known for name, known in columns.items() if name not in gone}


def _rename(step: Step, columns: dict[str, Known], target: str | None) -> dict[str, Known]:
    names = step.rename or {}
    if target in names:
        raise ValueError(f"renames the target {target!r}: give its new name in the file, or leave it")
    after = [names.get(name, name) for name in columns]
    twice = sorted({name for name in after if after.count(name) > 1})
    if twice:
        raise ValueError(f"makes two columns of the name {twice[0]!r}")
    return dict(zip(after, columns.values(), strict=True))


def _cast(step: Step, columns: dict[str, Known], _target: str | None) -> dict[str, Known]:
    casts = step.cast or {}
    return {n: Known(casts[n], k.gaps) if n in casts else k for n, k in columns.items()}


def _derive(step: Step, columns: dict[str, Known], _target: str | None) -> dict[str, Known]:
    after = dict(columns)
    for name, how in (step.derive or {}).items():
        made = how.names(name)
        taken = [n for n in made if n in after]
        if taken:
            raise ValueError(f"derives {taken[0]!r}, which is there already")
        gaps = any(columns[s].gaps for s in how.sources if s in columns) or bool(how.ratio)
        if how.difference:
            kinds = {columns[s].type for s in how.difference if s in columns}
            if "datetime" in kinds and kinds != {"datetime"}:
                raise ValueError(f"derives {name!r} from a datetime and a {min(kinds - {'datetime'})}")
            if kinds != {"datetime"}:
                _need("numbers", how.difference, columns)
        if how.ratio:
            _need("numbers", how.ratio, columns)
        if how.parts:
            _need("datetimes", how.sources, columns)
        after |= {n: Known("category" if how.concat else "number", gaps) for n in made}
    return after


def _filter(step: Step, columns: dict[str, Known], _target: str | None) -> dict[str, Known]:
    conditions = step.filter or {}
    bounded = [n for n, c in conditions.items() if c.min is not None or c.max is not None]
    _need("numbers", bounded, columns)
    full = [n for n, c in conditions.items() if c.gaps == "drop"]
    return {n: Known(k.type, k.gaps and n not in full) for n, k in columns.items()}


def _impute(step: Step, columns: dict[str, Known], _target: str | None) -> dict[str, Known]:
    ways = step.impute or {}
    _need("numbers", [n for n, way in ways.items() if way in ("mean", "median", "knn")], columns)
    for name, way in ways.items():
        if isinstance(way, Constant) and name in columns:
            _check_constant(name, way.constant, columns[name])
        if name in columns and columns[name].type == "datetime":
            raise ValueError(f"cannot fill the datetime {name!r}: filter its gaps out, or impute parts of it")
    return {n: Known(k.type, k.gaps and n not in ways) for n, k in columns.items()}


def _check_constant(name: str, value: float | str, known: Known) -> None:
    if known.numeric == isinstance(value, str):
        raise ValueError(f"fills {name!r}, which is of type {known.type}, with {value!r}")


def _encode(step: Step, columns: dict[str, Known], target: str | None) -> dict[str, Known]:
    ways = step.encode or {}
    _need("any", [n for n, how in ways.items() if how in ("ordinal", "dict")], columns, filled=True)
    if "target" in ways.values() and target is None:
        raise ValueError("encodes by the target, but the dataset declares none: add `target: NAME`")
    if target in ways and ways[target] not in ("onehot", "ordinal"):
        raise ValueError(f"encodes the target {target!r} as {ways[target]}: expected onehot or ordinal")
    after: dict[str, Known] = {}
    for name, known in columns.items():
        if known.type == "datetime" and name in ways:
            raise ValueError(f"encodes the datetime {name!r}: derive parts of it instead")
        if ways.get(name) == "onehot":
            after[f"{name}_*"] = Known("number")
        elif ways.get(name) == "dict":
            after[f"{name}{DICT_SEPARATOR}*"] = Known("number")
        else:
            after[name] = Known("number") if name in ways else known
    return after


def _scale(step: Step, columns: dict[str, Known], _target: str | None) -> dict[str, Known]:
    _need("numbers", step.columns, columns)
    return _as_numbers(step, columns)


def _clip(step: Step, columns: dict[str, Known], _target: str | None) -> dict[str, Known]:
    _need("numbers", step.columns, columns)
    return _as_numbers(step, columns)


def _bin(step: Step, columns: dict[str, Known], _target: str | None) -> dict[str, Known]:
    _need("numbers", step.columns, columns, filled=True)
    return _as_numbers(step, columns)


def _as_numbers(step: Step, columns: dict[str, Known]) -> dict[str, Known]:
    return {n: Known("number", k.gaps) if n in step.columns else k for n, k in columns.items()}


def _select(step: Step, columns: dict[str, Known], target: str | None) -> dict[str, Known]:
    assert step.select
    if step.select.columns:
        kept = {*step.select.columns, target or ""}
        return {n: k for n, k in columns.items() if n in kept or any(_made_by_encoding(x, [n]) for x in kept)}
    if target is None and step.select.by != "variance":
        raise ValueError("selects by the target, but the dataset declares none: add `target: NAME`")
    features = [name for name in columns if name != target]
    _need("numbers", features, columns, filled=True)
    # Which ones stay, only the data decides.
    return {"*": Known("number"), **{n: k for n, k in columns.items() if n == target}}


_FOLLOW = {
    "drop": _drop,
    "rename": _rename,
    "cast": _cast,
    "derive": _derive,
    "filter": _filter,
    "impute": _impute,
    "encode": _encode,
    "scale": _scale,
    "clip": _clip,
    "bin": _bin,
    "select": _select,
}
