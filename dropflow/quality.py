"""What there is to tell about a prepared file, in figures. A receipt keeps it; reports show it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from dropflow.objects import printable

Kind = Literal["number", "category", "text", "datetime", "boolean"]

MOST_COLUMNS = 60
MOST_DISTINCT = 1_000
"""What has more distinct values is told as 'more than 1,000'; nobody needs them exactly."""
LONGEST_NAME, LONGEST_VALUE = 80, 60
LONGEST_COLUMN, LONGEST_EXAMPLE = 400, 2_000
MOST_KEPT = 100
"""Of drifted columns and of reasons for quarantine, in a receipt."""


class StepDone(BaseModel):
    """What one step did, in words, and how long it took."""

    model_config = ConfigDict(frozen=True)

    name: str
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Numbers:
    """The finite numbers of a column.

    `counts[i]` of them are from `edges[i]` on and below `edges[i + 1]`, the last edge included: there is
    one edge more than counts, and edges never fall. A column of one value has a single bin without width.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    min: float
    mean: float
    median: float
    max: float

    def __post_init__(self) -> None:
        """Receipts may be forged, and charts are made of these."""
        if len(self.edges) != len(self.counts) + 1 or max(self.counts, default=0) <= 0:
            raise ValueError("no histogram")


@dataclass(frozen=True, slots=True)
class Frequent:
    """The most frequent values of a column, most frequent first, as printable text; rows of all others."""

    values: tuple[tuple[str, int], ...]
    others: int

    def __post_init__(self) -> None:
        if self.others + sum(rows for _, rows in self.values) <= 0:
            raise ValueError("no values")


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column. `distinct` does not count missing values, and stops at MOST_DISTINCT + 1.

    `distribution` is None where there is nothing to show: no value at all, or only infinite ones.
    """

    name: str
    kind: Kind
    missing: int
    distinct: int
    distribution: Numbers | Frequent | None
    infinite: int = 0

    @property
    def distinct_text(self) -> str:
        return f"more than {MOST_DISTINCT:,}" if self.distinct > MOST_DISTINCT else f"{self.distinct:,}"


@dataclass(frozen=True, slots=True)
class FrameProfile:
    """`columns` are the frame's first MOST_COLUMNS in their order; `left_out` is how many came after."""

    rows: int
    columns: tuple[ColumnProfile, ...]
    left_out: int = 0


class Quarantined(NamedTuple):
    """Rows set aside for one reason; `example` is the first of them as text, line breaks between rows."""

    reason: str
    rows: int
    example: str


@dataclass(frozen=True, slots=True)
class DriftLine:
    """How far a column is from the reference: population stability index, Kolmogorov-Smirnov statistic.

    Each is None where it does not apply.
    """

    column: str
    psi: float | None
    ks: float | None
    flagged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a receipt keeps for the report, beside what it tells itself.

    `after` has no columns where nothing was prepared; `seconds` is for the whole file.
    """

    before: FrameProfile
    after: FrameProfile
    quarantined: tuple[Quarantined, ...] = ()
    drift: tuple[DriftLine, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality(Figures):
    """All there is to tell about one prepared file. Texts may be hostile: renderers must escape them.

    `preprocessor` is the version of the stored one that was applied ('v3'), '' where the file was fitted on
    its own.
    """

    dataset: str
    url: str
    output_url: str = ""
    run_id: str = ""
    rows_in: int
    rows_out: int
    filtered: int = 0
    steps: tuple[StepDone, ...] = ()
    warnings: tuple[str, ...] = ()
    preprocessor: str = ""

    @property
    def quarantined_rows(self) -> int:
        return sum(entry.rows for entry in self.quarantined)


def worst_first(drift: Iterable[DriftLine]) -> list[DriftLine]:
    return sorted(drift, key=lambda line: (not line.flagged, -(line.psi or 0), -(line.ks or 0)))


def kept_drift(drift: Sequence[DriftLine]) -> tuple[DriftLine, ...]:
    """What of it a receipt keeps, whatever the number of columns and the length of their names."""
    worst = worst_first(drift)[:MOST_KEPT]
    return tuple(replace(line, column=short(line.column, LONGEST_COLUMN)) for line in worst)


def kept_reasons(reasons: Mapping[str, int], examples: Mapping[str, str]) -> tuple[Quarantined, ...]:
    """Rows by reason, each with its example, as a receipt keeps them: the most frequent, and all others."""
    ordered = sorted(reasons, key=lambda reason: -reasons[reason])
    kept = [Quarantined(one, reasons[one], _writable(examples[one])) for one in ordered[:MOST_KEPT]]
    if rest := ordered[MOST_KEPT:]:
        kept.append(Quarantined(f"{len(rest):,} other reasons", sum(reasons[one] for one in rest), ""))
    return tuple(kept)


def _writable(example: str) -> str:
    """UTF-8 takes no lone surrogates, which JSON lines can bring."""
    return example[:LONGEST_EXAMPLE].encode(errors="replace").decode()


def short(value: object, limit: int) -> str:
    """Any value as printable text of at most `limit` characters, however large it is."""
    try:
        text = value if isinstance(value, str) else str(value)
    except ValueError:
        # Python refuses to print whole numbers of more than 4,300 digits.
        text = f"a huge {type(value).__name__}"
    if len(text) > 2 * limit:
        # Ends are enough for `printable`, which looks at every character.
        text = text[:limit] + text[-limit:]
    # Nearly all text is fine as it is, and this much sooner told.
    return text if len(text) <= limit and text.isprintable() else printable(text, limit)
