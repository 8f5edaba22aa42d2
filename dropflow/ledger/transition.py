"""Changes of entries that somebody has looked at: they count only if nothing has changed since."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from dropflow.ledger.database import now
from dropflow.ledger.entries import Entry, Fate, Notice, Settlement, naive
from dropflow.ledger.notices import forget_bad, tell
from dropflow.ledger.tables import objects, story
from dropflow.notifying import Kind
from dropflow.objects import CANARIES


def transition(
    db: sa.Connection, entries: Collection[Entry], values: Mapping[str, Any], what: str = ""
) -> int:
    """Set `values` where fate and event are still those of the entry; returns how many were.

    A decision takes time: meanwhile a receipt may have come, or another listener have decided.
    `what` becomes part of the objects' story.
    """
    moment = now()
    changed = 0
    for found in entries:
        still = sa.and_(
            objects.c.id == found.id,
            objects.c.fate == found.fate.value,
            objects.c.event_id.is_not_distinct_from(found.event_id),
        )
        done = db.execute(sa.update(objects).where(still).values(**values, updated=moment)).rowcount
        if done and what:
            db.execute(sa.insert(story).values(object_id=found.id, at=moment, what=what))
        changed += done
    return changed


def fail(db: sa.Connection, entries: Collection[Entry], reason: str) -> int:
    """Given up; returns how many: what was settled meanwhile stays so."""
    values = {"fate": Fate.FAILED.value, "reason": reason, "look_at": None}
    failed = [found for found in entries if transition(db, [found], values, f"failed: {reason}")]
    note(db, [(found, Settlement(found.ref, found.dataset, Fate.FAILED, reason, now())) for found in failed])
    return len(failed)


def note(db: sa.Connection, changed: Collection[tuple[Entry, Settlement]]) -> None:
    """Have it told, in the transaction that changes the fates.

    Not what is old: a ledger that is built anew learns what was told long ago.
    """
    fresh = [(found, outcome) for found, outcome in changed if _is_news(found, outcome)]
    recovered = forget_bad(db, [found.ref for found, outcome in fresh if outcome.fate is Fate.PROCESSED])
    told = []
    for found, outcome in fresh:
        kind = KINDS[outcome.fate]
        if kind == "success" and (found.ref.bucket, found.ref.key) in recovered:
            kind = "recovered"
        seconds = _seconds(found, outcome)
        notice = Notice(found.ref, outcome.reason, seconds, outcome.run_id, outcome.report_key)
        told.append((outcome.dataset, kind, notice))
    tell(db, told)


KINDS: dict[Fate, Kind] = {Fate.PROCESSED: "success", Fate.REJECTED: "rejected", Fate.FAILED: "failure"}


def _is_news(found: Entry, outcome: Settlement) -> bool:
    if outcome.fate not in KINDS or f"/{CANARIES}" in f"/{found.ref.key}":
        return False
    if found.deliveries or outcome.fate is Fate.FAILED:
        return True
    # Prepared by hand or on schedule since. Stores tell whole seconds.
    return outcome.receipt_at >= found.first_seen.replace(microsecond=0)


def _seconds(found: Entry, outcome: Settlement) -> float | None:
    if found.ref.modified is None or outcome.fate is Fate.FAILED:
        return None
    return max(0.0, (outcome.receipt_at - found.ref.modified).total_seconds())


def redeliver(db: sa.Connection, entries: Collection[Entry], reason: str, ready_at: datetime) -> int:
    """They leave again, with a new event."""
    values = {"fate": Fate.PENDING.value, "reason": reason, "ready_at": naive(ready_at), "look_at": None}
    return transition(db, entries, values, f"to be delivered again: {reason}")
