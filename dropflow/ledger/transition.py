"""Changes of entries that somebody has looked at: they count only if nothing has changed since."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from dropflow.ledger.database import now
from dropflow.ledger.entries import Entry, Fate, naive
from dropflow.ledger.tables import objects, story


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
    return transition(db, entries, values, f"failed: {reason}")


def redeliver(db: sa.Connection, entries: Collection[Entry], reason: str, ready_at: datetime) -> int:
    """They leave again, with a new event."""
    values = {"fate": Fate.PENDING.value, "reason": reason, "ready_at": naive(ready_at), "look_at": None}
    return transition(db, entries, values, f"to be delivered again: {reason}")
