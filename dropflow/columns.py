"""Columns: what each must hold, and what is known of it while a recipe is followed."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

ColumnName = Annotated[str, StringConstraints(min_length=1)]
ColumnType = Literal["number", "category", "text", "datetime", "boolean"]


class Strict(BaseModel):
    """Frozen, and without fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(Strict):
    """What one column must hold.

    `min` and `max` are inclusive; `values` lists the categories; `format` is strftime's, without it
    datetimes are ISO 8601; `unique`: no value twice in one file.
    """

    type: ColumnType
    min: float | None = None
    max: float | None = None
    values: tuple[str, ...] | None = None
    format: str | None = None
    nullable: bool = False
    unique: bool = False

    @model_validator(mode="after")
    def _fitting_options(self) -> Self:
        if self.type != "number" and (self.min is not None or self.max is not None):
            raise ValueError("min and max belong to columns of type number")
        if self.type != "category" and self.values is not None:
            raise ValueError("values belong to columns of type category")
        if self.type != "datetime" and self.format is not None:
            raise ValueError("format belongs to columns of type datetime")
        return self


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a column between two steps. `gaps`: values may be missing."""

    type: ColumnType
    gaps: bool = False

    @property
    def numeric(self) -> bool:
        return self.type in ("number", "boolean")
