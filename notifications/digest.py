"""Which notices make a message now: a burst is one message, a repeated cause is counted. Pure."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from dropflow.ledger import Fate, Notice
from dropflow.notifying import Kind, Notify

GATHER = timedelta(seconds=2)
"""What follows the first so closely is told with it."""
LONGEST_DIGEST = timedelta(minutes=5)
"""A digest waits until nothing is in flight any more, but never longer."""
WINDOWS = tuple(timedelta(seconds=s) for s in (5, 8, 8, 60, 600, 3600))
"""After a first, second, … message of one cause: for so long the next ones are only counted."""
FORGET = {"digest": timedelta(minutes=10), "now": timedelta(hours=2)}
"""How long ago a message counts as one of the same; after it, the next is a first one again."""
LONGEST_CAUSE = 200

Recent = Mapping[tuple[str, str, str], list[datetime]]
"""When there were messages, by dataset, kind and cause."""


@dataclass(frozen=True)
class Group:
    """Notices that one message tells of."""

    dataset: str
    kind: Kind
    cause: str
    notices: tuple[Notice, ...]
    repeated: bool = False


@dataclass(frozen=True)
class Plan:
    """What is told now, and what nobody wants to be told of. All else waits."""

    groups: tuple[Group, ...]
    unwanted: tuple[Notice, ...]


def plan(
    notices: Iterable[Notice],
    notify: Callable[[str], Notify],
    told: Mapping[tuple[str, str], str],
    recent: Recent,
    busy: Collection[str],
    now: datetime,
) -> Plan:
    """Group the untold notices by dataset, kind and cause, and decide whose time has come.

    `notify`: how a dataset wants it. `told`: the fate that was told last, by bucket and key. `busy`:
    datasets of which objects are in flight.
    """
    gathered: dict[tuple[str, Kind, str], list[Notice]] = {}
    unwanted = []
    for notice in notices:
        kind = kind_of(notice, told)
        if notify(notice.dataset).when(kind) == "never":
            unwanted.append(notice)
        else:
            gathered.setdefault((notice.dataset, kind, cause_of(notice)), []).append(notice)
    groups = []
    for (dataset, kind, cause), found in gathered.items():
        digest = notify(dataset).when(kind) == "digest"
        same = recent.get((dataset, kind, cause), [])
        before = [at for at in same if now - at < FORGET["digest" if digest else "now"]]
        is_due = _digest_due(found, dataset in busy, now) if digest else now - found[0].at >= GATHER
        if is_due and not _held(before, now):
            groups.append(Group(dataset, kind, cause, tuple(found), bool(before)))
    return Plan(tuple(groups), tuple(unwanted))


def _digest_due(found: list[Notice], is_busy: bool, now: datetime) -> bool:
    if now - found[0].at >= LONGEST_DIGEST:
        return True
    return not is_busy and now - found[-1].at >= GATHER


def _held(before: list[datetime], now: datetime) -> bool:
    if not before:
        return False
    return now - before[-1] < WINDOWS[min(len(before), len(WINDOWS)) - 1]


def kind_of(notice: Notice, told: Mapping[tuple[str, str], str]) -> Kind:
    match notice.news:
        case Fate.REJECTED:
            return "rejected"
        case Fate.FAILED:
            return "failure"
        case "missing" | "late" | "canary" as news:
            return news
    bad = told.get((notice.ref.bucket, notice.ref.key)) in (Fate.REJECTED, Fate.FAILED)
    return "recovered" if bad else "success"


def cause_of(notice: Notice) -> str:
    """What the reasons of files with the same fault have in common: no values, no numbers."""
    if notice.news not in (Fate.REJECTED, Fate.FAILED):
        return ""
    plain = re.sub(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d[\d,.:]*""", "…", notice.reason)
    return plain[:LONGEST_CAUSE]
