"""The report of a trained model: one HTML page without scripts or outside parts, or Markdown. Pure."""

from dataclasses import dataclass
from functools import cache

from jinja2 import Template

from dropflow.objects import printable
from dropflow.report import escaping
from dropflow.trainings import LOWER_IS_BETTER
from flows.models import ModelCard
from flows.training import Bin, Evaluation

TEMPLATE = "model.html.jinja"
MOST_IMPORTANT = 15
MOST_CLASSES = 20
"""Rows and columns of a confusion table that can still be read."""
WIDTH, HEIGHT, MARGIN = 560.0, 300.0, 46.0
"""Of a plot, in SVG units."""


@dataclass(frozen=True)
class MetricRow:
    """One metric of the model, its baseline and the best before it; "–" where there is none."""

    name: str
    value: str
    baseline: str
    last: str
    decisive: bool
    lower_is_better: bool


@dataclass(frozen=True)
class Cell:
    """A confusion cell; `heat` is its share of the row, in per cent."""

    count: int
    heat: int
    right: bool


@dataclass(frozen=True)
class Bar:
    """One bar: `length` in per cent of the longest."""

    name: str
    value: str
    length: float


@dataclass(frozen=True)
class Mark:
    """A point or a rectangle of a plot, in SVG units, and what it tells when pointed at."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Plot:
    """Predicted against actual values (`points`, and the line of perfect ones) or a histogram (`bars`)."""

    marks: tuple[Mark, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def to_html(card: ModelCard, evaluation: Evaluation, last: ModelCard | None = None) -> str:
    """The whole page; `last` is the best model before this one. Names out of the data are escaped."""
    return _template().render(
        card=card,
        evaluation=evaluation,
        last=last,
        rows=metric_rows(card, last),
        confusion=_confusion(evaluation),
        bars=_bars(evaluation),
        predicted=_predicted(evaluation.bins) if evaluation.bins else None,
        residuals=_histogram(evaluation.residuals) if evaluation.residuals else None,
        plot=(WIDTH, HEIGHT, MARGIN),
        shown=lambda name: printable(str(name), 60),
    )


def to_markdown(card: ModelCard, evaluation: Evaluation, last: ModelCard | None = None) -> str:
    """The same in short, for an artifact in the Prefect UI."""
    baseline, before = card.baseline_name or "baseline", _name_of(last)
    lines = [
        f"## {_plain(card.name)}: {card.model} for {_plain(card.target)}",
        "",
        f"{card.rows_train:,} rows to train on, {card.rows_test:,} held out, {len(card.features)} features, "
        f"seed {card.seed}.",
        "",
        f"| metric | this model | {baseline} | {before} |",
        "|---|---:|---:|---:|",
        *(_markdown_row(row) for row in metric_rows(card, last)),
    ]
    if evaluation.importance:
        lines += ["", f"Most important, by loss of {evaluation.decisive} when shuffled:", ""]
        lines += [f"- {_plain(bar.name)}: {bar.value}" for bar in _bars(evaluation)[:5]]
    if evaluation.confusion and len(evaluation.classes) <= MOST_CLASSES:
        lines += ["", f"| {_plain(card.target)}: actual / predicted | {_joined(evaluation.classes)} |"]
        lines += ["|---|" + "---:|" * len(evaluation.classes)]
        for name, counts in zip(evaluation.classes, evaluation.confusion, strict=True):
            lines.append(f"| {_plain(name)} | {' | '.join(f'{count:,}' for count in counts)} |")
    return "\n".join(lines) + "\n"


def _markdown_row(row: MetricRow) -> str:
    name = f"**{row.name}**" if row.decisive else row.name
    return f"| {name} | {row.value} | {row.baseline} | {row.last} |"


@cache
def _template() -> Template:
    return escaping("flows").get_template(TEMPLATE)


def metric_rows(card: ModelCard, last: ModelCard | None) -> list[MetricRow]:
    """The card's metrics beside those of baseline and last best, in the card's order."""
    baseline = card.baseline_metrics or {}
    before = last.metrics if last else {}
    names = dict.fromkeys([*card.metrics, *baseline])
    return [
        MetricRow(
            name,
            _number(card.metrics.get(name)),
            _number(baseline.get(name)),
            _number(before.get(name)),
            name == card.better_by,
            name in LOWER_IS_BETTER,
        )
        for name in names
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}" if abs(value) >= 1 else f"{value:.4f}"


def _name_of(last: ModelCard | None) -> str:
    return f"best before (v{last.version:04d})" if last else "best before"


def _plain(text: str) -> str:
    """A name out of the data, so that Markdown takes it for nothing else: no table, link, HTML or image."""
    escaped = "".join(f"\\{c}" if c in "\\`*_{}[]()#+!|~" else c for c in printable(text, 60))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _joined(names: tuple[str, ...]) -> str:
    return " | ".join(map(_plain, names))


def _confusion(evaluation: Evaluation) -> list[tuple[str, list[Cell]]]:
    """(actual class, its cells), or nothing where the table would be too large."""
    if len(evaluation.classes) > MOST_CLASSES:
        return []
    table = []
    for i, (name, counts) in enumerate(zip(evaluation.classes, evaluation.confusion, strict=False)):
        whole = sum(counts) or 1
        table.append((name, [Cell(n, round(100 * n / whole), i == j) for j, n in enumerate(counts)]))
    return table


def _bars(evaluation: Evaluation) -> list[Bar]:
    top = evaluation.importance[:MOST_IMPORTANT]
    longest = max((value for _, value in top), default=0) or 1
    return [Bar(name, f"{value:.4f}", round(max(0.0, 100 * value / longest), 1)) for name, value in top]


def _predicted(bins: tuple[Bin, ...]) -> Plot:
    """Mean prediction over mean actual value, one point per bin; both axes alike."""
    values = [value for group in bins for value in (group.actual, group.predicted)]
    low, high = min(values), max(values)
    marks = tuple(
        Mark(
            _x(group.actual, low, high),
            _y(group.predicted, low, high),
            0,
            0,
            f"{group.rows:,} rows from {group.low:.4g} to {group.high:.4g}: "
            f"actual {group.actual:.4g}, predicted {group.predicted:.4g} on average",
        )
        for group in bins
    )
    ticks = _ticks(low, high)
    return Plot(
        marks,
        tuple((_x(tick, low, high), f"{tick:.4g}") for tick in ticks),
        tuple((_y(tick, low, high), f"{tick:.4g}") for tick in ticks),
    )


def _histogram(residuals: tuple[tuple[float, float, int], ...]) -> Plot:
    low, high = residuals[0][0], residuals[-1][1]
    most = max(rows for _, _, rows in residuals) or 1
    marks = []
    for start, end, rows in residuals:
        left, top = _x(start, low, high), _y(rows, 0, most)
        width = max(1.0, _x(end, low, high) - left - 1)
        title = f"{rows:,} rows predicted {start:+.4g} to {end:+.4g} off"
        marks.append(Mark(left, top, round(width, 1), round(HEIGHT - MARGIN - top, 1), title))
    return Plot(
        tuple(marks),
        tuple((_x(tick, low, high), f"{tick:+.3g}") for tick in _ticks(low, high)),
        tuple((_y(tick, 0, most), f"{tick:.0f}") for tick in _ticks(0, most)),
    )


def _x(value: float, low: float, high: float) -> float:
    return round(MARGIN + _share(value, low, high) * (WIDTH - MARGIN - 10), 1)


def _y(value: float, low: float, high: float) -> float:
    return round(HEIGHT - MARGIN - _share(value, low, high) * (HEIGHT - MARGIN - 10), 1)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _ticks(low: float, high: float) -> list[float]:
    return [low + (high - low) * part / 4 for part in range(5)] if high > low else [low]
