"""Where everything stands, from the ledger: what `dropflow status` shows."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from dropflow.clock import utc_now
from dropflow.ledger import ChannelState, Fate, Ledger, Listening, Source, SweepReport
from dropflow.objects import printable

COLUMNS = ("seen", *(fate.value for fate in Fate))
IN_FLIGHT = (Fate.PENDING, Fate.DISPATCHED)


@dataclass(frozen=True)
class Status:
    """A moment's view. `unaccounted` is None until a sweep has compared the ledger with all buckets."""

    at: datetime
    datasets: dict[str, dict[str, int]]
    unaccounted: int | None
    oldest_in_flight: datetime | None
    sweep: SweepReport | None
    sources: list[Source]
    listeners: list[Listening]
    events: int
    redelivered: int
    unreadable: int
    channels: list[ChannelState]
    held: dict[str, int]
    """Objects that wait because their dataset is paused."""
    missing: dict[str, datetime]
    """By when a file was expected that has not come, by dataset."""

    @property
    def sums(self) -> dict[str, int]:
        return {name: sum(counts[name] for counts in self.datasets.values()) for name in COLUMNS}

    def to_json(self) -> dict[str, Any]:
        sweep = self.sweep
        age = (self.at - self.oldest_in_flight).total_seconds() if self.oldest_in_flight else None
        return {
            **self.sums,
            "unaccounted": self.unaccounted,
            "oldest_in_flight_seconds": round(age, 1) if age is not None else None,
            "datasets": self.datasets,
            "last_sweep": {**asdict(sweep), "seconds": round(sweep.seconds, 2)} if sweep else None,
            "sources": [asdict(source) for source in self.sources],
            "listeners": [asdict(listener) for listener in self.listeners],
            "events_posted": self.events,
            "events_redelivered": self.redelivered,
            "unreadable_notifications": self.unreadable,
            "channels": [asdict(channel) for channel in self.channels],
            "paused": self.held,
            "missing": {name: due.isoformat() for name, due in self.missing.items()},
        }


def read_status(ledger: Ledger) -> Status:
    """Raises TransientError."""
    sweep = ledger.watch.last_sweep()
    posted, again = ledger.outbox.counts()
    datasets = {
        name: {"seen": sum(counts.values()), **{fate.value: counts.get(fate, 0) for fate in Fate}}
        for name, counts in sorted(ledger.counts().items())
    }
    return Status(
        at=utc_now(),
        datasets=datasets,
        unaccounted=sweep.verified_unaccounted if sweep else None,
        oldest_in_flight=ledger.oldest(*IN_FLIGHT),
        sweep=sweep,
        sources=ledger.watch.sources(),
        listeners=ledger.watch.listeners(),
        events=posted,
        redelivered=again,
        unreadable=ledger.unreadable(),
        channels=ledger.notices.channels(),
        held=ledger.outbox.held(),
        missing={d.dataset: d.due for d in ledger.deadlines.known().values() if d.missing},
    )


def render(status: Status) -> RenderableType:
    """For a terminal."""
    parts: list[RenderableType] = []
    if status.datasets:
        parts.append(_counts(status))
    else:
        parts.append("No object seen yet: drop one with [bold]dropflow drop FILE --dataset NAME[/].")
    if status.sweep and status.unaccounted is None:
        parts.append("unaccounted  [red]unknown[/]: not all buckets could be swept")
        parts += [f"not swept  [red]{escape(line)}[/]" for line in status.sweep.unswept.splitlines()]
    elif status.unaccounted is None:
        parts.append("unaccounted  [yellow]unknown[/] until the first sweep has ended")
    else:
        style = "red" if status.unaccounted else "green"
        parts.append(f"unaccounted  [{style}]{status.unaccounted:,}[/]")
    parts += [
        f"paused  [yellow]{escape(name)}[/]: {number:,} objects wait until `dropflow resume {escape(name)}`"
        for name, number in status.held.items()
    ]
    parts += [
        f"missing  [yellow]{escape(name)}[/]: no file by {due.astimezone():%a %d %b %H:%M %Z}"
        for name, due in status.missing.items()
    ]
    if status.oldest_in_flight:
        parts.append(f"oldest in flight  {age(status.at - status.oldest_in_flight)}")
    if status.sweep:
        parts.append(_sweep(status.sweep, status.at))
    parts.append(f"events  {status.events:,} posted, {status.redelivered:,} of them redelivered")
    parts += [_source(source, status.at) for source in status.sources]
    if not status.sources:
        parts.append("[yellow]No listener is running[/]: start one with [bold]dropflow up[/] or `listen`.")
    parts += [_channel(channel, status.at) for channel in status.channels]
    if status.unreadable:
        parts.append(f"{status.unreadable:,} notifications could not be read; they are kept in the ledger")
    return Group(*parts)


def _counts(status: Status) -> Table:
    # Narrow: all columns fit a terminal of 80.
    table = Table("dataset", *COLUMNS, box=None, padding=(0, 2, 0, 0))
    for name, counts in status.datasets.items():
        table.add_row(name or "(none)", *(f"{counts[column]:,}" for column in COLUMNS))
    if len(status.datasets) > 1:
        table.add_section()
        table.add_row("all", *(f"{status.sums[column]:,}" for column in COLUMNS))
    return table


def _sweep(sweep: SweepReport, now: datetime) -> str:
    found = ", ".join(
        f"{number:,} {what}"
        for what, number in (
            ("new", sweep.new),
            ("settled", sweep.settled),
            ("reopened", sweep.reopened),
            ("orphaned outputs", sweep.orphans),
        )
        if number
    )
    return (
        f"last sweep  {age(now - sweep.started)} ago, {sweep.seconds:.1f} s: {sweep.objects:,} objects, "
        f"{sweep.receipts:,} receipts; found {found or 'nothing new'}"
    )


def _source(source: Source, now: datetime) -> str:
    state = "[green]live[/]" if source.live else "[red]not live[/]"
    detail = f" ({escape(printable(source.detail, 300))})" if source.detail else ""
    return f"{escape(source.name)}  {state} for {age(now - source.since)}{detail}"


def _channel(channel: ChannelState, now: datetime) -> str:
    told = f"told {age(now - channel.sent)} ago" if channel.sent else "never told anything yet"
    trouble = ""
    if channel.waiting and channel.error:
        why = escape(printable(channel.error, 300))
        trouble = f", [red]{channel.waiting:,} messages wait ({why})[/]: dropflow notify test"
    if channel.given_up:
        trouble += f", [red]{channel.given_up:,} given up[/]"
    return f"channel {escape(channel.channel)}  {told}{trouble}"


def age(span: Any) -> str:
    """12 s, 3 min, 2.5 h, 3.1 days."""
    seconds = max(0.0, span.total_seconds())
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
