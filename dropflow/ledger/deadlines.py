"""By when files are expected: which deadline was judged last, and whether its file is missing still."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from dropflow.ledger.database import Database
from dropflow.ledger.entries import Entry, Fate, Notice, entry, naive
from dropflow.ledger.notices import tell
from dropflow.ledger.tables import deadlines, objects
from dropflow.notifying import Kind
from dropflow.objects import ObjectRef

SKEW = timedelta(hours=1)
"""By how much the store's clock may be ahead of ours."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The last deadline of a dataset that was judged. Times are UTC.

    `missing`: whether its file has not come until now. `after`: only what came later counts for the next
    one. `verdict`: what Prefect is to be told; "" once it was.
    """

    dataset: str
    due: datetime
    after: datetime
    missing: bool
    verdict: str


class Deadlines:
    """One row for each dataset that expects files. Methods raise TransientError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self) -> dict[str, Deadline]:
        with self._database.read() as db:
            rows = db.execute(sa.select(deadlines).order_by(deadlines.c.dataset)).all()
        return {row.dataset: _deadline(row) for row in rows}

    def begin(self, dataset: str, due: datetime) -> None:
        """From now on: what was due before nobody had asked for."""
        new = self._database.insert(deadlines).values(
            dataset=dataset, due=naive(due), after=naive(due), missing=False, verdict=""
        )
        with self._database.write() as db:
            db.execute(new.on_conflict_do_nothing())

    def forget(self, dataset: str) -> None:
        """It expects nothing any more."""
        with self._database.write() as db:
            db.execute(sa.delete(deadlines).where(deadlines.c.dataset == dataset))

    def judge(self, was: Deadline, due: datetime, missing: str, place: ObjectRef) -> bool:
        """A later deadline has passed; `missing`: what to tell when nothing has come, else "".

        False when another listener was faster. `place`: where it was expected.
        """
        values = {"due": naive(due), "after": naive(due), "missing": bool(missing)}
        if missing:
            return self._change(was, {**values, "verdict": "missing"}, "missing", place, missing)
        return self._change(was, {**values, "verdict": "punctual"}, None, place, "")

    def came(self, was: Deadline, at: datetime, ref: ObjectRef, reason: str) -> bool:
        """What was missing is there. False when another listener was faster."""
        return self._change(was, {"missing": False, "after": naive(at)}, "late", ref, reason)

    def posted(self, was: Deadline) -> None:
        with self._database.write() as db:
            db.execute(sa.update(deadlines).where(_same(was)).values(verdict=""))

    def arrival(self, dataset: str, after: datetime, not_below: str) -> Entry | None:
        """The first object of the dataset written after a moment; `not_below`: a prefix that is none."""
        written = sa.func.coalesce(objects.c.modified, objects.c.first_seen)
        query = sa.select(objects).where(
            # With fate and time, an index finds them.
            objects.c.fate.in_([fate.value for fate in Fate]),
            objects.c.dataset == dataset,
            objects.c.updated > naive(after - SKEW),
            written > naive(after),
            sa.not_(objects.c.key.startswith(not_below, autoescape=True)),
        )
        with self._database.read() as db:
            found = db.execute(query.order_by(written, objects.c.id).limit(1)).one_or_none()
        return entry(found) if found else None

    def _change(
        self, was: Deadline, values: Mapping[str, object], kind: Kind | None, ref: ObjectRef, reason: str
    ) -> bool:
        with self._database.write() as db:
            changed = db.execute(sa.update(deadlines).where(_same(was)).values(**values)).rowcount > 0
            if changed and kind:
                tell(db, [(was.dataset, kind, Notice(ref, reason))])
        return changed


def _deadline(row: Any) -> Deadline:
    due, after = (moment.replace(tzinfo=UTC) for moment in (row.due, row.after))
    return Deadline(row.dataset, due, after, row.missing, row.verdict)


def _same(was: Deadline) -> sa.ColumnElement[bool]:
    return sa.and_(
        deadlines.c.dataset == was.dataset,
        deadlines.c.due == naive(was.due),
        deadlines.c.missing == was.missing,
    )
