"""Which notices make a message now: a burst is one message, a repeated cause is counted. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from dropflow.ledger import Untold
from dropflow.notifying import Kind, Notify

GATHER = timedelta(seconds=2)
"""What follows the first so closely is told with it."""
LONGEST_DIGEST = timedelta(minutes=5)
"""A digest waits until nothing is in flight any more, but never longer."""
WINDOWS = tuple(timedelta(seconds=s) for s in (5, 8, 8, 60, 600, 3600))
"""After a first, second, … message of one cause: for so long the next ones are only counted."""
FORGET = {"digest": timedelta(minutes=10), "now": timedelta(hours=2)}
"""After so long without a message, the next of the same is a first one again."""
REMEMBERED = timedelta(hours=12)
"""Long enough for all windows, one after the other."""

Recent = Mapping[tuple[str, str, str], list[datetime]]
"""When there were messages, by dataset, kind and cause, the oldest first."""


@dataclass(frozen=True)
class Group:
    """Notices that one message tells of. `kind`: as what."""

    untold: Untold
    kind: Kind
    repeated: bool = False


@dataclass(frozen=True)
class Plan:
    """What is told now, and what nobody wants to be told of. All else waits."""

    groups: tuple[Group, ...]
    unwanted: tuple[Untold, ...]


def plan(
    untold: Iterable[Untold],
    notify: Callable[[str], Notify],
    recent: Recent,
    busy: Collection[str],
    now: datetime,
) -> Plan:
    """Decide whose time has come.

    `notify`: how a dataset wants it. `busy`: datasets of which objects are in flight.
    """
    groups, unwanted = [], []
    for found in untold:
        kind, when = _kind(found, notify(found.dataset))
        if when == "never":
            unwanted.append(found)
            continue
        before = _before(recent.get((found.dataset, found.kind, found.cause), []), FORGET[when], now)
        is_due = _digest_due(found, now, found.dataset in busy) if when == "digest" else _gathered(found, now)
        longest = LONGEST_DIGEST if when == "digest" else WINDOWS[-1]
        if is_due and not _held(before, longest, now):
            groups.append(Group(found, kind, bool(before)))
    return Plan(tuple(groups), tuple(unwanted))


def _kind(found: Untold, notify: Notify) -> tuple[Kind, str]:
    """Who does not want to hear of recoveries hears of a success."""
    as_success = found.kind == "recovered" and notify.when("recovered") == "never"
    kind: Kind = "success" if as_success else found.kind
    return kind, notify.when(kind)


def _gathered(found: Untold, now: datetime) -> bool:
    return now - found.since >= GATHER


def _digest_due(found: Untold, now: datetime, is_busy: bool) -> bool:
    return now - found.since >= LONGEST_DIGEST or (not is_busy and now - found.until >= GATHER)


def _before(same: list[datetime], forget: timedelta, now: datetime) -> list[datetime]:
    """The messages since the last long silence."""
    kept: list[datetime] = []
    for at in reversed(same):
        if (kept[-1] if kept else now) - at >= forget:
            break
        kept.append(at)
    return kept[::-1]


def _held(before: list[datetime], longest: timedelta, now: datetime) -> bool:
    if not before:
        return False
    return now - before[-1] < min(longest, WINDOWS[min(len(before), len(WINDOWS)) - 1])
