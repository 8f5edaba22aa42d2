"""How a dataset's raw files are written: the `read:` section of its YAML."""

import codecs
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Format = Literal["auto", "csv", "parquet", "jsonl", "excel"]

DEFAULT_MAX_BYTES = 4 * 2**30

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]i?)?b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_NOT_FOR_FILES = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape"}
"""Text encodings in Python's eyes that no program writes tables in; punycode takes quadratic time."""


class Reading(BaseModel):
    """How the bytes of a raw file become a table. What is `auto` is found out from the file.

    `delimiter`, `decimal` and `thousands` are of CSV, `encoding` of CSV and JSON lines, `sheet` (its name,
    or its number from 0) of Excel. `max_bytes` is the most a file may have after decompression, where a
    text counts in every cell that it stands in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Format = "auto"
    delimiter: str = "auto"
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."
    thousands: str | None = None
    sheet: Annotated[str, StringConstraints(min_length=1)] | Annotated[int, Field(strict=True, ge=0)] = 0
    max_bytes: Annotated[int, Field(ge=1)] = DEFAULT_MAX_BYTES

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, delimiter: str) -> str:
        # pandas' fast parser takes one byte; a letter, digit or quote would cut values apart.
        usable = len(delimiter) == 1 and delimiter.isascii() and delimiter not in '"\r\n\0'
        if delimiter == "auto" or (usable and not delimiter.isalnum()):
            return delimiter
        raise ValueError('expected auto or one ASCII character, for example ";" or "\\t"')

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            codec = codecs.lookup(encoding)
        except (LookupError, ValueError) as error:
            raise ValueError(
                f"there is no encoding {encoding!r}; try utf-8, latin-1, cp1252 or utf-16"
            ) from error
        # The attribute is what str.encode itself asks; base64 and its like turn bytes into bytes.
        if not codec._is_text_encoding or codec.name.replace("-", "_") in _NOT_FOR_FILES:
            raise ValueError(f"{encoding!r} is no encoding of text files; try utf-8, latin-1 or cp1252")
        return codec.name

    @field_validator("thousands")
    @classmethod
    def _one_separator(cls, thousands: str | None) -> str | None:
        if thousands is None or (
            len(thousands) == 1 and not thousands.isalnum() and thousands not in '+-"\r\n\0'
        ):
            return thousands
        raise ValueError("expected one character that is no letter, digit, sign or quote")

    @field_validator("max_bytes", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        # YAML's yes is a bool, and a bool an int.
        if not isinstance(value, str | bool):
            return value
        found = _SIZE.fullmatch(str(value).strip())
        if not found:
            raise ValueError('expected a number of bytes, or text such as "500MB" or "2 GiB"')
        unit = (found[2] or "").lower()
        return int(float(found[1]) * (1024 if unit.endswith("i") else 1000) ** _POWERS[unit[:1]])

    @model_validator(mode="after")
    def _separable(self) -> Self:
        if self.thousands == self.decimal:
            raise ValueError(f"thousands and decimal are both {self.decimal!r}: numbers would be ambiguous")
        return self
