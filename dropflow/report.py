"""The quality report, as a page and as a short Prefect artifact. Every text in it may be hostile."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from dropflow.datasets import Dataset
from dropflow.errors import PermanentError
from dropflow.objects import ObjectRef, printable
from dropflow.quality import (
    LONGEST_NAME,
    ColumnProfile,
    DriftLine,
    Frequent,
    Numbers,
    Quality,
    short,
    worst_first,
)
from dropflow.receipts import PREFIX, latest_receipt, load_receipt
from dropflow.storage import ObjectStore

if TYPE_CHECKING:
    from jinja2 import Environment, Template

WIDTH, HEIGHT, WIDEST_BAR = 200, 48, 40
"""Of a histogram, in the SVG's own units: the page stretches it."""
LONGEST_TEXT = 400
"""A line's worth of hostile text, no more; an example of quarantined rows is a few such lines."""
MOST_EXAMPLE_LINES = 5
MOST_LINES = 30
"""Of a table of the page; of an artifact's, which is read in a narrow column, MOST_IN_MARKDOWN."""
MOST_IN_MARKDOWN = 15


@dataclass(frozen=True, slots=True)
class Chart:
    """A histogram: the path of its bars in a WIDTH x HEIGHT box, and what they show in words."""

    path: Markup
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of columns; a side is None where the frame has no such column."""

    before: ColumnProfile | None
    after: ColumnProfile | None
    drifted: bool = False

    @property
    def column(self) -> ColumnProfile:
        column = self.before or self.after
        assert column
        return column


def report_of(store: ObjectStore, dataset: Dataset, ref: ObjectRef) -> bytes:
    """The page of an object as it is now. Raises PermanentError, with why, where there is none."""
    there = store.stat(ref.bucket, ref.key)
    found = latest_receipt(store, dataset, there)
    name = printable(ref.url, 400)
    if found is None:
        raise PermanentError(f"{name} has not been prepared: dropflow explain {shlex.quote(name)}")
    own, receipt = found
    if receipt.fate == "rejected":
        raise PermanentError(f"{name} was rejected, and has no report: {receipt.reason}")
    page = report_at(store, dataset.output_bucket, receipt.report_key or own.key)
    if not page:
        raise PermanentError(f"{name} was prepared before there were reports: dropflow replay --force")
    return page


def report_at(store: ObjectStore, bucket: str, key: str) -> bytes:
    """The page of a receipt's object, by the receipt's key; or of a page that an earlier version has stored.

    b"" where there are no figures. Raises ObjectMissingError, ReceiptError and what the store does.
    """
    if not key.startswith(PREFIX):
        return store.get(bucket, key)[1]
    quality = load_receipt(store, bucket, key)[1].quality
    return to_html(quality).encode() if quality else b""


def to_html(quality: Quality) -> str:
    """The report as one self-contained page: no script, and nothing that is loaded from elsewhere."""
    return page_template().render(
        quality=quality,
        name=quality.url.rstrip("/").rpartition("/")[2],
        rows=table(quality),
        drift=worst_first(quality.drift),
        slowest=max((step.seconds for step in quality.steps), default=0.0),
        most=MOST_LINES,
    )


def command(url: str) -> str:
    """What writes the page of an object, in a shell."""
    return f"dropflow report {shlex.quote(url)}"


def to_markdown(quality: Quality) -> str:
    """The report's essence as GitHub-flavoured Markdown, and how to get the whole."""
    parts = [
        f"**{_escaped(quality.dataset)}** · {_escaped(quality.url)}"
        + (f" → {_escaped(quality.output_url)}" if quality.output_url else ""),
        _headline(quality),
        f"Full report: {_escaped(command(quality.url))}",
        *_section("Warnings", [f"- Warning: {_escaped(text)}" for text in quality.warnings]),
        *_section("Drift", _drift_lines(quality.drift), "| column | PSI | KS | |\n|---|--:|--:|---|"),
        *_section(
            "Missing values", _missing_lines(quality), "| column | before | after |\n|---|--:|--:|", "columns"
        ),
        *_section(
            "Quarantined",
            [f"| {_escaped(reason)} | {rows:,} |" for reason, rows, _ in quality.quarantined],
            "| reason | rows |\n|---|--:|",
            "reasons",
        ),
        *_section(
            "Steps",
            [
                f"| {_escaped(step.name)} | {_escaped(step.detail)} | {_seconds(step.seconds)} |"
                for step in quality.steps
            ],
            "| step | what it did | time |\n|---|---|--:|",
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(quality: Quality) -> list[Row]:
    """The columns before and after side by side, in the order before.

    New ones stand below the column they were made of (Geography_France below Geography), else last.
    """
    before, after = _numbered(quality.before.columns), _numbered(quality.after.columns)
    drifted = {short(line.column, LONGEST_NAME) for line in quality.drift if line.flagged}
    made: dict[str, list[ColumnProfile]] = {}
    names = {name for name, _ in before}
    for (name, number), column in after.items():
        if (name, number) not in before:
            made.setdefault(_origin(name, names), []).append(column)
    rows: list[Row] = []
    for (name, number), column in before.items():
        rows.append(Row(column, after.get((name, number)), name in drifted))
        rows += (Row(None, new, new.name in drifted) for new in made.pop(name, ()))
    return rows + [Row(None, new, new.name in drifted) for new in chain.from_iterable(made.values())]


def _numbered(columns: Iterable[ColumnProfile]) -> dict[tuple[str, int], ColumnProfile]:
    """Columns by name and a number, which tells those of the same name apart."""
    seen: dict[str, int] = {}
    numbered = {}
    for column in columns:
        seen[column.name] = seen.get(column.name, 0) + 1
        numbered[column.name, seen[column.name]] = column
    return numbered


def _origin(name: str, names: set[str]) -> str:
    """The column that this one was made of, or ''."""
    while name and name not in names:
        name = name.rpartition("_")[0]
    return name


# The page


@cache
def page_template() -> "Template":
    """Compiled once a process."""
    # No text reaches the page but by `_plain`: control characters could reorder or hide what follows.
    environment = escaping("dropflow", finalize=_plain)
    environment.filters.update(
        chart=_chart, frequent=_frequent, number=_number, share=_share, seconds=_seconds, lines=_lines
    )
    return environment.get_template("report.html.jinja")


def escaping(package: str, **more: Any) -> "Environment":
    """For a package's templates: all that they print is escaped, and a name that is not there an error."""
    # A listener that shows no report does without.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package),
        # By name it would depend on the ending .jinja.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **more,
    )


def _plain(value: object) -> object:
    """What a template's expression may print: numbers, markup made by a macro, or a printable line."""
    return value if isinstance(value, int | float | Markup) else short(value, LONGEST_TEXT)


def _chart(numbers: Numbers, name: str) -> Chart:
    """The histogram of a column. One path for all bars: a page with sixty columns stays small."""
    step, tallest = WIDTH / len(numbers.counts), max(numbers.counts)
    bar = min(step - 1.5, WIDEST_BAR)
    path = []
    for index, count in enumerate(numbers.counts):
        if count:
            # Rare values are seen, too.
            height = max(round(HEIGHT * count / tallest, 1), 1)
            left = index * step + (step - bar) / 2
            path.append(f"M{left:.4g} {HEIGHT}v-{height:g}h{bar:.4g}v{height:g}z")
    highest = numbers.counts.index(tallest)
    title = (
        f"{name} from {_number(numbers.min)} to {_number(numbers.max)}; the tallest of "
        f"{len(numbers.counts)} bars, from {_number(numbers.edges[highest])} to "
        f"{_number(numbers.edges[highest + 1])}, is {tallest:,} rows"
    )
    # Made of numbers only, and longer than any text may be.
    return Chart(Markup("").join(path), title)


def _frequent(frequent: Frequent) -> list[tuple[str, int, str, bool]]:
    """(value, rows, share in percent as CSS, whether it stands for all others) of each bar."""
    total = frequent.others + sum(rows for _, rows in frequent.values)
    bars = [(value, rows, f"{100 * rows / total:.1f}%", False) for value, rows in frequent.values]
    if frequent.others:
        bars.append(("others", frequent.others, f"{100 * frequent.others / total:.1f}%", True))
    return bars


def _lines(text: str) -> list[str]:
    """The first lines of an example; `_plain` shortens each."""
    return text[: LONGEST_TEXT * MOST_EXAMPLE_LINES].splitlines()[:MOST_EXAMPLE_LINES]


def _number(value: float, largest: float = 0.0) -> str:
    """Few digits: 1,234,567 · 0.3791 · 1e+308; what is next to nothing beside the largest is told as that."""
    size = abs(value)
    if 0 < size < largest / 10_000:
        return "≈ 0"
    whole = size < 1e9 and (size >= 1_000 or value.is_integer())
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def _share(part: int, whole: int) -> str:
    """In percent: 15 %, 0.4 %, and never 0 % or 100 % for what is only near."""
    if not part or part == whole or not whole:
        return "100 %" if part else "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "<0.1 %"
    if percent > 99.9:
        return ">99.9 %"
    return f"{percent:.1f} %" if percent < 10 or percent > 99 else f"{percent:.0f} %"


def _seconds(value: float) -> str:
    if value < 1:
        return f"{value * 1000:.3g} ms" if value < 0.1 else f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


# The artifact

_SPECIAL = re.compile(r"[\\`*_\[\]~#!$]")
_ADDRESS = re.compile(r"(?:https?|ftp)://|www\.", re.IGNORECASE)
"""What GitHub's Markdown makes a link of by itself."""


def _escaped(text: str) -> str:
    """Text that Markdown renders as it is, in table cells as well; never at the start of a line.

    Entities for what is HTML, ends a cell, or makes a bare address a link; a renderer takes these for
    text wherever they stand, while they differ in how they read a backslash before a pipe.
    """
    line = _SPECIAL.sub(r"\\\g<0>", short(text, LONGEST_TEXT).replace("&", "&amp;"))
    for special, entity in (
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "&#124;"),
        ("@", "&#64;"),
    ):
        line = line.replace(special, entity)
    return _ADDRESS.sub(_unlinked, line)


def _unlinked(address: re.Match[str]) -> str:
    return address[0].replace(":", "&#58;").replace(".", "&#46;")


def _headline(quality: Quality) -> str:
    parts = [
        f"**{quality.rows_in:,} rows in → {quality.rows_out:,} out**",
        f"{quality.quarantined_rows:,} quarantined",
        f"{quality.filtered:,} filtered out",
        _seconds(quality.seconds),
        f"preprocessor {_escaped(quality.preprocessor)}" if quality.preprocessor else "",
    ]
    return " · ".join(part for part in parts if part)


def _section(title: str, lines: Sequence[str], head: str = "", noun: str = "") -> list[str]:
    """A heading and its lines below `head`, or nothing without lines."""
    if not lines:
        return []
    more = len(lines) - MOST_IN_MARKDOWN
    shown = [head, *lines[:MOST_IN_MARKDOWN]] if head else list(lines[:MOST_IN_MARKDOWN])
    rest = [f"… and {more:,} more {noun}".rstrip()] if more > 0 else []
    return [f"### {title}", "\n".join(shown), *rest]


def _drift_lines(drift: Iterable[DriftLine]) -> list[str]:
    return [
        f"| {_escaped(line.column)} | {_measure(line.psi)} | {_measure(line.ks)} "
        f"| {'**drifted**' if line.flagged else 'steady'} |"
        for line in worst_first(drift)
    ]


def _measure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _missing_lines(quality: Quality) -> list[str]:
    """Only columns with gaps: the others have nothing to tell."""
    return [
        f"| {_escaped(row.column.name)} | {_gaps(row.before, quality.before.rows)} "
        f"| {_gaps(row.after, quality.after.rows)} |"
        for row in table(quality)
        if (row.before and row.before.missing) or (row.after and row.after.missing)
    ]


def _gaps(column: ColumnProfile | None, rows: int) -> str:
    if column is None:
        return "–"
    return f"{column.missing:,} ({_share(column.missing, rows)})" if column.missing else "0"
