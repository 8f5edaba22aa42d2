"""A sample file to the YAML of a dataset that works unedited: `dropflow new-dataset`. Pure pandas.

What is guessed says in a comment what was seen. The guesses are careful: a bound or a list of values that
next month's file breaks costs more than one that somebody adds. The recipe is carried out once before the
text is given away.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import ValidationError

from dropflow.columns import ColumnType
from dropflow.datasets import Dataset
from dropflow.errors import RejectedError, SettingsError
from dropflow.formats import Reading
from dropflow.objects import printable
from flows import contract, encoding, reading, steps
from flows.transformation import parse
from flows.transformers import (
    FALSE,
    LONGEST_NAME,
    SECONDS,
    TRUE,
    to_booleans,
    to_datetimes,
    to_numbers,
    to_texts,
)

LINE = 110
MOST_VALUES = 20
"""More categories than that are not listed: there may well be others."""
MOST_ONEHOT = 15
MOST_ONEHOT_COLUMNS = 2_000
"""Of all columns together: a recipe may make 20,000 at most."""
LONGEST_VALUE = 60
CATEGORY_SHARE = 0.2
"""Of the rows: with more distinct values than that, five rows do not share one, and it is free text."""
ID_SHARE = 0.5
MOST_CODED = 100
SAMPLE = 1_000
"""Rows that tell how numbers are spelt."""
EXACT = 2**53
"""Whole numbers up to this are exact as floats; larger ones are ids."""
MOST_SCALED = 1e100
"""The squares of larger numbers are infinite."""
LONGEST_KEY = 120
"""YAML takes longer keys, up to any length, only after a question mark."""

_ENDING = re.compile(
    r"(\.(?:csv|tsv|txt|jsonl|ndjson|json|parquet|pq|xlsx|xlsm|dat|data))?(\.(?:gz|gzip|zst|zstd|zip))?$",
    re.IGNORECASE,
)
_SLUG = re.compile(r"^[a-z][a-z0-9_-]{0,62}$")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_ID_WORDS = {"id", "ids", "uuid", "guid", "key", "index", "idx", "rownum", "rownumber", "number", "no", "nr"}
_PERSON = {
    *("surname", "lastname", "firstname", "fullname", "email", "mail", "phone", "telephone", "iban", "ssn"),
}
_SIGNED = {
    *("temp", "temperature", "lat", "latitude", "lon", "lng", "long", "longitude", "altitude", "elevation"),
    *("delta", "diff", "difference", "change", "growth", "return", "returns", "trend", "error", "residual"),
    *("balance", "profit", "loss", "margin", "cashflow", "net", "offset", "shift", "angle", "x", "y", "z"),
}
"""Words in the names of quantities that may be negative next month."""
_TARGETS = {
    *("target", "label", "labels", "class", "classes", "species", "y", "outcome", "response", "exited"),
    *("churn", "churned", "survived", "diagnosis", "fraud", "isfraud", "default", "defaulted", "converted"),
}
_DATE_WORDS = {"date", "day", "dt", "datum", "tag"}

_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_DAYS = ("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%d.%m.%y", "%m/%d/%y")
_WORDED = ("%d %b %Y", "%d-%b-%Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y")
FORMATS = tuple(day + clock for day in (*_DAYS, *_WORDED) for clock in _CLOCKS)
_DIGIT = re.compile(r"[0-9]")
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}(-[0-9]{2}|$)")
_SWAPPED = {"%m/%d/%Y": "%d/%m/%Y", "%d-%m-%Y": "%m-%d-%Y"}
"""Where every day is 12 or less, a file does not tell which of the two it is."""

_SPELLINGS: tuple[tuple[Literal[".", ","], str | None], ...] = (
    *((".", None), (",", None), (".", ","), (",", "."), (",", " "), (".", " ")),
    *((",", "\xa0"), (",", "\u202f"), (".", "'"), (".", "’")),
)
"""Decimal mark and thousands, the plainest first."""
_ENCODINGS = ("utf-8", "cp1252", "latin-1", "utf-16-le", "utf-16-be")
_MOJIBAKE = r"[ÃÂ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
"""UTF-8 read as cp1252: the file is UTF-8 with a damaged place."""

_PARTS = {"month": "month", "weekday": "day_of_week", "hour": "hour"}
"""Parts of a time that come back, by pandas' name of each."""

_YAML_WORDS = {"yes", "no", "on", "off", "y", "n", "true", "false", "null", "~"}


@dataclass(frozen=True)
class Seen:
    """A column as the sample shows it. `note`: what is odd about it."""

    name: str
    type: ColumnType
    rows: int
    values: pd.Series
    """As the contract parses them; gaps are NaN or NaT."""
    format: str | None = None
    note: str = ""

    @cached_property
    def present(self) -> pd.Series:
        return self.values.dropna()

    @cached_property
    def counts(self) -> pd.Series:
        return self.present.value_counts()

    @property
    def gaps(self) -> int:
        return self.rows - len(self.present)

    @property
    def distinct(self) -> int:
        return len(self.counts)

    @cached_property
    def whole(self) -> bool:
        return self.type == "number" and bool((self.present % 1 == 0).all())

    @cached_property
    def flag(self) -> bool:
        return self.type == "boolean" or (self.type == "number" and set(self.counts.index) == {0.0, 1.0})

    @cached_property
    def listed(self) -> tuple[str, ...]:
        """The categories, where the sample seems to show them all."""
        closed = self.type == "category" and self.distinct <= MOST_VALUES and self.counts.min() > 1
        short = closed and max(map(len, self.counts.index)) <= LONGEST_VALUE
        return tuple(sorted(self.counts.index)) if short else ()

    @cached_property
    def words(self) -> set[str]:
        found = [word.lower() for word in _WORDS.findall(self.name)]
        return {*found, "".join(found)}

    @cached_property
    def unique(self) -> bool:
        """Whether it obviously is an id."""
        named = self.last_word in _ID_WORDS or self.name.startswith("Unnamed: ")
        exact = self.whole or self.type == "text"
        return named and exact and self.rows > 1 and not self.gaps and self.distinct == self.rows

    @property
    def last_word(self) -> str:
        words: list[str] = _WORDS.findall(self.name)
        return words[-1].lower() if words else ""

    @cached_property
    def why_drop(self) -> str:
        """Why a model has no use for it; "" where it has."""
        if self.distinct < 2:
            return self._span or "no value at all"
        if self.unique:
            return "an id: every value is there once"
        if self.whole and self.rows > 2 and not self.gaps and _counts_rows(self.values):
            return "counts the rows"
        named = self.last_word in _ID_WORDS and (self.whole or self.type in ("text", "category"))
        if named and self.distinct > ID_SHARE * len(self.present):
            return f"an id: {self.distinct:,} different"
        return "" if self.type != "text" else self._why_no_text

    @property
    def _why_no_text(self) -> str:
        if self.words & _PERSON:
            return "tells who it is"
        return f"{self.note or 'free text'}: {self.distinct:,} different"

    @property
    def options(self) -> dict[str, Any]:
        """The column's declaration, in the order to write it."""
        found: dict[str, Any] = {"type": self.type}
        if self.flag and self.type == "number":
            found |= {"min": 0, "max": 1}
        elif self.type == "number" and self.distinct and self.present.min() >= 0 and not self.words & _SIGNED:
            found["min"] = 0
        if self.listed:
            found["values"] = list(self.listed)
        if self.format:
            found["format"] = self.format
        if self.gaps:
            found["nullable"] = True
        if self.unique:
            found["unique"] = True
        return found

    @property
    def told(self) -> str:
        """What was seen, as a comment."""
        gaps = f"{self.gaps:,} of {self.rows:,} missing" if self.gaps else ""
        return "; ".join(part for part in (self._span, self.note, gaps) if part)

    @property
    def _span(self) -> str:
        if not self.distinct:
            return ""
        if self.distinct == 1:
            return f"always {shown(self.present.iloc[0])}"
        if self.flag:
            return f"{self.present.mean():.1%} are {'true' if self.type == 'boolean' else '1'}"
        if self.listed:
            return ""
        if self.type in ("number", "datetime"):
            return f"{shown(self.present.min())} to {shown(self.present.max())}"
        return f"{self.distinct:,} {'values' if self.type == 'category' else 'different'}"


def _counts_rows(values: pd.Series) -> bool:
    # Years in a row count as well, but from elsewhere.
    first = values.iloc[0]
    return first in (0, 1) and bool((values.to_numpy() == np.arange(len(values)) + first).all())


def shown(value: Any) -> str:
    """A value in a comment: one short line."""
    if isinstance(value, datetime):
        text = value.isoformat(sep=" ", timespec="seconds" if value.second else "minutes")
        return text.removesuffix(" 00:00")
    if isinstance(value, float) and abs(value) < 1e15:
        return f"{value:,.0f}" if value % 1 == 0 else f"{value:,.6g}"
    return f"{value:g}" if isinstance(value, float) else printable(repr(str(value)), 40)


def propose(content: bytes, name: str, dataset: str | None = None, bucket: str = "raw") -> str:
    """The YAML of a dataset that takes such files, named after the file unless `dataset` says how.

    `name` is the file's, with its ending. Raises RejectedError where the file is none that can be
    prepared, SettingsError for a name of dataset or bucket that cannot be, or without openpyxl for Excel.
    """
    called = dataset if dataset is not None else slug(name)
    if not _SLUG.fullmatch(called):
        raise SettingsError(
            f"{printable(called)!r} is no name of a dataset: small letters, digits, - and _, a letter first"
        )
    how, natural = _readable(content, name)
    columns, how = _seen(content, name, natural, how)
    text = _written(_Plan(columns, _target(columns)), name, called, bucket, how)
    _rehearse(text, content, name)
    return text


def slug(name: str) -> str:
    """A dataset's name out of a file's: Churn_Modelling-2026-11.csv is churn_modelling."""
    stem = _ENDING.sub("", re.split(r"[/\\]", name)[-1])
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9-]+", "_", plain).strip("-_")
    undated = re.sub(r"([-_][0-9]+)+$", "", re.sub(r"^[^a-z]+", "", words))
    return undated[:63].strip("-_") or "dataset"


def _ending(name: str) -> str:
    found = _ENDING.search(re.split(r"[/\\]", name)[-1])
    return found[0] if found else ""


def _rehearse(text: str, content: bytes, name: str) -> None:
    """Carry the proposal out on the file. Raises RejectedError, SettingsError."""
    try:
        dataset = Dataset.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise SettingsError(f"no dataset can be declared so: {error.errors()[0]['msg']}") from error
    frame = contract.check(parse(content, name, dataset), dataset, max_share=0.0).good
    for step in dataset.steps:
        frame, _, _ = steps.apply(frame, step, dataset)
    encoding.encode(frame, dataset.output)


# Reading


def _readable(content: bytes, name: str) -> tuple[Reading, pd.DataFrame]:
    """The first way to read the file that works, and its table. Raises RejectedError, SettingsError."""
    first: RejectedError | None = None
    for code in _ENCODINGS:
        for options in ({}, {"decimal": ","}, {"format": "jsonl"}):
            how = Reading.model_validate({"encoding": code, **options})
            try:
                frame = reading.read(content, name, how, [])
            except RejectedError as error:
                first = first or error
                continue
            if _sensible(frame, code):
                return how, frame
    raise first or RejectedError("is no table: its header begins with {, and it is no JSON lines either")


def _sensible(frame: pd.DataFrame, code: str) -> bool:
    names = pd.Series([str(column) for column in frame.columns])
    # JSON lines in a file called .csv have a header, too.
    if names.iloc[0].lstrip().startswith("{"):
        return False
    if code == "utf-8":
        return True
    texts = [names, *(frame[column] for column in _texts(frame))]
    return not any(text.str.contains(_MOJIBAKE, regex=True).any() for text in texts)


def _texts(frame: pd.DataFrame) -> list[str]:
    return [str(name) for name, dtype in frame.dtypes.items() if isinstance(dtype, pd.StringDtype)]


def _spelt(content: bytes, name: str, frame: pd.DataFrame, how: Reading) -> Reading:
    """How the file writes its numbers: as most columns of text then are numbers."""
    samples = [_sample(frame[column]) for column in _texts(frame)]
    order = [s for s in _SPELLINGS if s[0] == "," or how.decimal == "."]
    # Where commas part the columns, 1,234 is a thousand.
    if samples and _by_commas(content, name, frame):
        order.sort(key=lambda spelling: spelling[0] == ",")
    counts = [sum(_all_numbers(sample, *spelling) for sample in samples) for spelling in order]
    decimal, thousands = order[counts.index(max(counts))]
    return how.model_copy(update={"decimal": decimal, "thousands": thousands})


def _by_commas(content: bytes, name: str, frame: pd.DataFrame) -> bool:
    try:
        found = reading.read(content, name, Reading(delimiter=","), [])
    except RejectedError:
        return False
    return list(found.columns) == list(frame.columns)


def _sample(texts: pd.Series) -> list[str]:
    """Some of what is given; without a digit it may stand for a gap: NA, null."""
    # Plain lists: pandas takes a millisecond a column for each question.
    return [text.strip() for text in texts.head(SAMPLE).dropna().tolist() if _DIGIT.search(text)]


def _all_numbers(sample: list[str], decimal: str, thousands: str | None) -> bool:
    mark, group = re.escape(decimal), re.escape(thousands or "")
    whole = rf"[0-9]{{1,3}}(?:{group}[0-9]{{3}})+|[0-9]+" if thousands else "[0-9]+"
    number = re.compile(rf"[+-]?(?:(?:{whole})(?:{mark}[0-9]*)?|{mark}[0-9]+)(?:[eE][+-]?[0-9]+)?")
    return bool(sample) and all(map(number.fullmatch, sample))


# Columns


def _seen(content: bytes, name: str, natural: pd.DataFrame, how: Reading) -> tuple[list[Seen], Reading]:
    """Every column as the contract will parse it, and how the file is to be read."""
    spelt = _spelt(content, name, natural, how)
    likely = [str(column) for column in natural.columns if _may_be_number(natural[column], spelt)]
    numbers = _numbers(content, name, spelt, likely)
    if spelt != how and not set(numbers) & set(_texts(natural)):
        # A file whose format has no such option, or no use for it.
        spelt = how
    columns = [_column(str(column), natural[column], numbers.get(str(column))) for column in natural.columns]
    return columns, spelt


def _may_be_number(series: pd.Series, how: Reading) -> bool:
    if not isinstance(series.dtype, pd.StringDtype):
        return pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_bool_dtype(series)
    return _all_numbers(_sample(series), how.decimal, how.thousands)


def _numbers(content: bytes, name: str, how: Reading, likely: list[str]) -> dict[str, pd.Series]:
    """Those of the columns that hold finite numbers, gaps, and nothing else."""
    if not likely:
        return {}
    frame = _read_as_numbers(content, name, how, likely)
    if frame is None:
        frames = {column: _read_as_numbers(content, name, how, [column]) for column in likely}
        found = {column: table[column] for column, table in frames.items() if table is not None}
    else:
        found = {column: frame[column] for column in likely}
    return {column: to_numbers(series) for column, series in found.items() if _finite(series)}


def _read_as_numbers(content: bytes, name: str, how: Reading, numbers: list[str]) -> pd.DataFrame | None:
    try:
        return reading.read(content, name, how, numbers)
    except RejectedError:
        return None


def _finite(series: pd.Series) -> bool:
    numbers = to_numbers(series)
    readable = numbers.notna().equals(series.notna()) and bool(numbers.notna().any())
    return readable and not pd.api.types.is_bool_dtype(series) and bool(np.isfinite(numbers.dropna()).all())


def _column(name: str, series: pd.Series, numbers: pd.Series | None) -> Seen:
    rows = len(series)
    form = _date_format(series) if numbers is None else _compact_date(name, series, numbers)
    if form is not None:
        return Seen(
            name, "datetime", rows, to_datetimes(series, form or None), form or None, _doubt(series, form)
        )
    if numbers is not None and not (codes := _codes(series, numbers)):
        return Seen(name, "number", rows, numbers)
    if numbers is None and _booleans(series):
        return Seen(name, "boolean", rows, to_booleans(series))
    texts = to_texts(series)
    note = _not_quite_numbers(texts) if numbers is None else codes
    seen = Seen(name, "category", rows, texts, note=note)
    return seen if _groups(seen) else replace(seen, type="text")


def _codes(series: pd.Series, numbers: pd.Series) -> str:
    """Why they are no quantities though they look like numbers; "" where they may be."""
    if bool((numbers.abs() > EXACT).any()) and bool((numbers.dropna() % 1 == 0).all()):
        return "too long for a number" if not _floats(series) else ""
    if isinstance(series.dtype, pd.StringDtype) and series.dropna().str.match(r"\s*0[0-9]+\s*$").any():
        return "zeros in front"
    return ""


def _floats(series: pd.Series) -> bool:
    text = isinstance(series.dtype, pd.StringDtype)
    return bool(series.str.contains(r"[.,eE]", regex=True).any()) if text else series.dtype.kind == "f"


def _booleans(series: pd.Series) -> bool:
    if pd.api.types.is_bool_dtype(series):
        return True
    words = set(to_texts(series).dropna().head(SAMPLE).map(lambda word: word.strip().lower()))
    two = bool(words & set(TRUE)) and bool(words & set(FALSE)) and words <= {*TRUE, *FALSE}
    return two and bool(to_booleans(series).notna().equals(series.notna()))


def _groups(seen: Seen) -> bool:
    """Whether rows share the values, as categories do."""
    if seen.words & _PERSON or seen.distinct < 2 or max(map(len, seen.counts.index)) > 10 * LONGEST_VALUE:
        return False
    given = len(seen.present)
    return seen.distinct <= CATEGORY_SHARE * given or (seen.distinct <= MOST_VALUES and seen.counts.min() > 1)


def _not_quite_numbers(texts: pd.Series) -> str:
    """What keeps a column of numbers from being one: `?`, as a rule."""
    given = texts.dropna()
    other = given[pd.to_numeric(given, errors="coerce").isna()]
    if not 0 < len(other) < 0.2 * len(given):
        return ""
    return f"numbers but for {len(other):,} such as {printable(repr(str(other.iloc[0])), 30)}"


def _date_format(series: pd.Series) -> str | None:
    """The format of a column of dates, "" for ISO 8601; None where they are none."""
    if series.dtype.kind == "M":
        return ""
    texts = to_texts(series).dropna()
    if texts.empty or not all(map(_DIGIT.search, texts.head(SAMPLE))):
        return None
    if texts.str.match(_ISO).all():
        return "" if _fits(series, None) else None
    likely = (form for form in FORMATS if _is_time(str(texts.iloc[0]), form))
    return next((form for form in likely if _fits(series, form)), None)


def _is_time(text: str, form: str) -> bool:
    try:
        return bool(datetime.strptime(text, form))  # its shape alone is looked at
    except ValueError:
        return False


def _compact_date(name: str, series: pd.Series, numbers: pd.Series) -> str | None:
    """20241231 in a column that is named as dates are."""
    dated = {word.lower() for word in _WORDS.findall(name)} & _DATE_WORDS
    usual = dated and numbers.dropna().between(19_000_101, 20_991_231).all()
    return "%Y%m%d" if usual and _fits(series, "%Y%m%d") else None


def _fits(series: pd.Series, form: str | None) -> bool:
    try:
        return bool(to_datetimes(series, form).notna().equals(series.notna()))
    except (ValueError, TypeError, OverflowError):
        return False


def _doubt(series: pd.Series, form: str) -> str:
    for one, other in _SWAPPED.items():
        if form.startswith(one) and _fits(series, swapped := form.replace(one, other)):
            return f"or is it {swapped}?"
    return ""


# Target


@dataclass(frozen=True)
class Target:
    """The column that a model may be meant to predict, and why. `sure`: it is not only the last one."""

    name: str
    why: str
    sure: bool


def _target(columns: list[Seen]) -> Target | None:
    fitting = [c for c in columns if not c.why_drop and c.type not in ("text", "datetime")]
    named = [c for c in fitting if c.name.lower().replace("_", "") in _TARGETS]
    named = [c for c in named if c.type == "number" or c.distinct <= MOST_CODED]
    if named:
        return Target(named[-1].name, "what a model is to predict: it is named so", sure=True)
    if columns and fitting and fitting[-1] is columns[-1] and columns[-1].flag:
        return Target(columns[-1].name, "what a model is to predict: the last column, a yes or no", sure=True)
    return Target(fitting[-1].name, "", sure=False) if fitting else None


# Recipe


@dataclass(frozen=True)
class Line:
    """One line of a step: a column, what is done to it, and why."""

    name: str
    what: Any = None
    why: str = ""


@dataclass(frozen=True)
class _Plan:
    """What is done to the columns, step by step. Nothing gets a name that is there already."""

    columns: list[Seen]
    guess: Target | None

    @property
    def target(self) -> str | None:
        return self.guess.name if self.guess and self.guess.sure else None

    @cached_property
    def useless(self) -> list[Line]:
        return [Line(c.name, why=c.why_drop) for c in self.columns if c.why_drop]

    @cached_property
    def keeps_some(self) -> bool:
        """Whether anything is left for a model; if not, all is kept, as no table has no columns."""
        left = len(self.columns) - len(self.useless) - len(self.times) + len(self.derived)
        return left > 0

    @cached_property
    def times(self) -> list[Seen]:
        return [c for c in self.columns if c.type == "datetime" and not c.why_drop]

    @cached_property
    def features(self) -> list[Seen]:
        kept = (c for c in self.columns if not c.why_drop or not self.keeps_some)
        return [c for c in kept if c.name != self.target and c.type not in ("datetime", "text")]

    @cached_property
    def spans(self) -> dict[str, tuple[Seen, Seen]]:
        """From one time to a later one, by the name of the difference."""
        taken = {c.name for c in self.columns}
        found: dict[str, tuple[Seen, Seen]] = {}
        for first, second in zip(self.times, self.times[1:], strict=False):
            away = (second.values - first.values).dropna()
            name = f"{first.name}_to_{second.name}"
            later = len(away) > 1 and away.min() >= pd.Timedelta(0) and away.nunique() > 1
            if later and name not in taken:
                found[name] = (first, second)
        return found

    @cached_property
    def derived(self) -> list["Made"]:
        ends = {second.name for _, second in self.spans.values()}
        taken = {*(c.name for c in self.columns), *self.spans}
        made = [_difference(name, *pair) for name, pair in self.spans.items()]
        for column in self.times:
            parts = [part for part in _PARTS if _varies(column, part)]
            names = [f"{column.name}_{part}" for part in parts]
            # The end of a span says little that its start does not.
            if parts and column.name not in ends and not taken & set(names):
                taken.update(names)
                made.append(Made(column.name, {"parts": parts, "of": column.name}, names, gaps=column.gaps))
        return made

    @cached_property
    def imputed(self) -> list[Line]:
        lines = [
            Line(c.name, "median" if _is_measure(c) else "most_frequent", missing(c.gaps))
            for c in self.features
            if c.gaps and c.distinct
        ]
        for made in self.derived:
            way = "most_frequent" if "parts" in made.how else "median"
            lines += [Line(name, way, missing(made.gaps)) for name in made.names if made.gaps]
        return lines

    @cached_property
    def encoded(self) -> list[Line]:
        lines: list[Line] = []
        taken = {c.name for c in self.columns} | {name for made in self.derived for name in made.names}
        room = MOST_ONEHOT_COLUMNS
        for column in self.features:
            if column.type != "category" or not column.distinct:
                continue
            names = {f"{column.name}_{value}" for value in column.counts.index}
            many = f"{column.distinct:,} values: too many for a column each"
            if column.distinct > min(MOST_ONEHOT, room):
                lines.append(Line(column.name, "frequency", many))
            elif max(len(str(value)) for value in column.counts.index) > LONGEST_NAME:
                lines.append(Line(column.name, "frequency", "values too long to be names of columns"))
            elif names & taken:
                lines.append(Line(column.name, "frequency", "onehot would make a name that is there"))
            else:
                lines.append(Line(column.name, "onehot", f"{column.distinct} values"))
                taken |= names
                room -= len(names)
        return lines

    @cached_property
    def scaled(self) -> list[str]:
        plain = [c for c in self.features if c.type == "number" and not c.flag and c.distinct]
        names = [c.name for c in plain if c.present.abs().max() < MOST_SCALED]
        return names + [name for made in self.derived for name in made.names]


def _is_measure(column: Seen) -> bool:
    """Whether it has a middle: a number, neither a yes or no nor too large to be reckoned with."""
    return column.type == "number" and not column.flag and column.present.abs().max() < MOST_SCALED


@dataclass(frozen=True)
class Made:
    """A derived column, or several: the parts of a time. `gaps`: rows without a value."""

    name: str
    how: dict[str, Any]
    names: list[str]
    why: str = ""
    gaps: int = 0


def _difference(name: str, first: Seen, second: Seen) -> Made:
    away = (second.values - first.values).dt.total_seconds()
    middle = float(away.median())
    unit = next((unit for unit in ("days", "hours", "minutes") if middle >= 2 * SECONDS[unit]), "seconds")
    low, high = (shown(float(f"{bound / SECONDS[unit]:.3g}")) for bound in (away.min(), away.max()))
    how = {"difference": [second.name, first.name], "unit": unit}
    return Made(name, how, [name], why=f"{low} to {high} {unit}", gaps=int(away.isna().sum()))


def _varies(column: Seen, part: str) -> bool:
    # Two months are one file's start and end, not a season.
    return int(getattr(column.present.dt, _PARTS[part]).nunique()) > (2 if part == "month" else 1)


def missing(gaps: int) -> str:
    return f"{gaps:,} missing"


# Text


def scalar(text: str) -> str:
    """Text as YAML on one line, quoted where it needs be: safe in lists, as a value, and as a key."""
    # Single quotes and plain text break at a newline; and other readers take 1e3 for a number.
    quoted = not text.isprintable() or text.lower() in _YAML_WORDS or _numeric(text)
    style = '"' if quoted else None
    # What cannot be seen is escaped: a hard space as thousands looks like any other.
    clear = text.isprintable()
    made = yaml.safe_dump(
        [text], default_flow_style=True, default_style=style, allow_unicode=clear, width=float("inf")
    )
    return str(made).strip()[1:-1]


def _numeric(text: str) -> bool:
    try:
        float(text.replace("_", ""))
    except ValueError:
        return False
    return True


def flow(value: Any) -> str:
    """Lists, mappings and scalars in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow_key(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        return scalar(value)
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else f"{value}"


def _flow_key(name: str) -> str:
    text = scalar(name)
    return text if len(text) <= LONGEST_KEY else f"? {text} "


def keyed(name: str, value: str, indent: int) -> str:
    """A line of a mapping; two where the name is too long for a key."""
    text, space = scalar(name), " " * indent
    return f"{space}{text}: {value}" if len(text) <= LONGEST_KEY else f"{space}? {text}\n{space}: {value}"


def aligned(lines: Iterable[tuple[str, str]], most: int = 70) -> Iterator[str]:
    """Lines with their comments below each other; those longer than `most` do not move the others'."""
    pairs = list(lines)
    fitting = [len(_last(line)) for line, why in pairs if why and len(_last(line)) + len(why) + 4 <= LINE]
    width = max((length for length in fitting if length <= most), default=0)
    for line, why in pairs:
        pad = " " * max(0, width - len(_last(line)))
        yield f"{line}{pad}  # {why}" if why else line


def _last(line: str) -> str:
    return line.rpartition("\n")[2]


def wrapped(head: str, items: Iterable[str], indent: int) -> str:
    """A list in as many lines as it takes: `head[a, b,` and so on."""
    lines, line = [], f"{head}["
    for number, item in enumerate(items):
        part = scalar(item)
        if number and len(line) + len(part) + 3 > LINE:
            lines.append(f"{line},")
            line = " " * indent + part
        else:
            line += f", {part}" if number else part
    return "\n".join([*lines, f"{line}]"])


def _written(plan: _Plan, name: str, called: str, bucket: str, how: Reading) -> str:
    rows = plan.columns[0].rows
    file = printable(re.split(r"[/\\]", name)[-1], 60)
    other = "prepared" if bucket == "processed" else "processed"
    head = [
        f"# Proposed by `dropflow new-dataset` from {file}: {rows:,} rows, {len(plan.columns):,} columns.",
        "# Comments say what was seen there; what is wrong for other files is yours to mend.",
        f"name: {called}",
        f"match: {scalar(f'{bucket}/{called}/**/*{_ending(name)}')}",
        f"output_bucket: {other}",
    ]
    options = how.model_dump(exclude_defaults=True)
    if options:
        head.append(f"read: {flow(options)}")
    parts = [head, _columns_text(plan), _target_text(plan), list(_steps_text(plan)), list(_examples(plan))]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _columns_text(plan: _Plan) -> list[str]:
    lines: list[tuple[str, str]] = []
    for column in plan.columns:
        line = keyed(column.name, flow(column.options), 2)
        if len(_last(line)) + len(column.told) + 4 > LINE and column.listed:
            lines += _in_block(column)
        else:
            lines.append((line, column.told))
    return [
        "columns:  # the contract: rows that break it are set aside; too many, and the file is rejected",
        *aligned(lines),
    ]


def _in_block(column: Seen) -> Iterator[tuple[str, str]]:
    yield keyed(column.name, "", 2).rstrip(), column.told
    for key, value in column.options.items():
        head = f"    {key}: "
        yield wrapped(head, value, len(head) + 1) if key == "values" else f"{head}{flow(value)}", ""


def _target_text(plan: _Plan) -> list[str]:
    guess = plan.guess
    if guess is None:
        return ["# target: NAME  # what a model is to predict; no column looks like it"]
    if guess.sure:
        gaps = next(column.gaps for column in plan.columns if column.name == guess.name)
        only = flow({guess.name: {"gaps": "drop"}})
        more = [f"# Its gaps stay; a first step leaves such rows out: - filter: {only}"]
        return [f"target: {scalar(guess.name)}  # {guess.why}", *(more if gaps else [])]
    return [
        "# What a model is to predict: no column is named so, and this one is a mere guess.",
        "# Take it out of the steps as well, so that predictions are of its own values.",
        f"# target: {scalar(guess.name)}",
    ]


def _steps_text(plan: _Plan) -> Iterator[str]:
    if not plan.keeps_some:
        yield "# Nothing here is for a model, so all is kept as it is; these are no use:"
        yield from (f"# - drop: {scalar(line.name)}  # {line.why}" for line in plan.useless)
        yield "steps: []"
        return
    blocks = [
        *_block("drop", [(f"      - {scalar(line.name)}", line.why) for line in plan.useless]),
        *_block("derive", [(keyed(m.name, flow(m.how), 6), m.why) for m in plan.derived]),
        *_block("drop", [(f"      - {scalar(c.name)}", _why_gone(plan, c)) for c in plan.times]),
        *_block("impute", [(keyed(line.name, line.what, 6), line.why) for line in plan.imputed]),
        *_block("encode", [(keyed(line.name, line.what, 6), line.why) for line in plan.encoded]),
    ]
    if plan.scaled:
        blocks += ["  - scale:", "      method: standard"]
        blocks.append(wrapped("      columns: ", plan.scaled, len("      columns: [")))
    yield from ["steps:", *blocks] if blocks else ["steps: []"]


def _block(kind: str, lines: list[tuple[str, str]]) -> list[str]:
    return [f"  - {kind}:", *aligned(lines)] if lines else []


def _why_gone(plan: _Plan, column: Seen) -> str:
    used = {
        source for made in plan.derived for source in (made.how.get("of"), *made.how.get("difference", []))
    }
    return "what it tells is derived" if column.name in used else "no number, and nothing to derive from it"


def _examples(plan: _Plan) -> Iterator[str]:
    """Options that many want next, each valid once its mark is taken away."""
    names = {column.name for column in plan.columns}
    aim = next((c for c in plan.columns if c.name == plan.target), None)
    classes = aim and not aim.gaps and aim.distinct <= MOST_VALUES and aim.counts.min() > 1
    stratify = {"stratify": aim.name} if aim and classes and len(aim.name) <= LONGEST_VALUE else {}
    split = flow({"test_size": 0.33, **stratify, "seed": 42})
    lines = [
        (f"# split: {split}", "a column `split`; only train is fitted on"),
        ("# fit: reference", "fit on the first file alone; all others are only transformed"),
        ("# drift: {psi: 0.25, ks: 0.2, then: warn}", "how far files may be from it; or then: reject"),
        ("# train: {model: random_forest}", "a model of every prepared file, judged on unseen rows"),
        ("# ready: quiet 30s", "prepare once nothing changed for so long; or: marker _SUCCESS"),
        ('# schedule: "0 9 * * 1-5"', "weekdays at 9 UTC as well: whatever has no receipt yet"),
    ]
    unfit = {"# split" if "split" in names else "", "" if plan.target else "# train"}
    lines = [line for line in lines if line[0].partition(":")[0] not in unfit]
    yield "# More, for when it is needed:"
    yield from aligned(lines, most=45)
