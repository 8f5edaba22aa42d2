"""Objects a page at a time, the last changed first: for people who look, however much the ledger holds."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from heapq import nlargest

import sqlalchemy as sa

from dropflow.ledger.database import Database
from dropflow.ledger.entries import Entry, Fate, entry, naive
from dropflow.ledger.tables import objects

LONGEST_READ = 5.0
"""Seconds; a search that takes longer is cut off."""
_LAST_CHANGED = (objects.c.updated.desc(), objects.c.id.desc())


@dataclass(frozen=True, slots=True)
class Wanted:
    """Objects of a dataset, with a fate, whose key has `text` in it in upper or lower case."""

    text: str = ""
    dataset: str | None = None
    fate: Fate | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """An entry's place in the order of pages."""

    updated: datetime
    id: int


@dataclass(frozen=True, slots=True)
class Page:
    """`after`: where the next page begins; None on the last one."""

    entries: list[Entry]
    after: Place | None


class Pages:
    """Bounded reads: so many rows, so many seconds. Methods raise TransientError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, wanted: Wanted, datasets: Collection[str], limit: int, after: Place | None = None) -> Page:
        """Up to `limit` entries, the last changed first; `datasets` are all that the ledger knows of."""
        with self._database.read() as db, _bounded(db):
            if wanted.text:
                found = _search(db, wanted, limit + 1, after)
            else:
                ids = _newest(db, wanted, datasets, limit + 1, after)
                query = sa.select(objects).where(objects.c.id.in_(ids)).order_by(*_LAST_CHANGED)
                found = [entry(row) for row in db.execute(query)]
        last = found[limit - 1] if len(found) > limit else None
        return Page(found[:limit], Place(last.updated, last.id) if last else None)

    def entry(self, row: int) -> Entry | None:
        with self._database.read() as db:
            found = db.execute(sa.select(objects).where(objects.c.id == row)).one_or_none()
        return entry(found) if found else None

    def is_newest(self, found: Entry) -> bool:
        """Whether no later version of its key is known."""
        same_key = sa.and_(objects.c.bucket == found.ref.bucket, objects.c.key == found.ref.key)
        later = sa.and_(same_key, objects.c.first_seen > naive(found.first_seen))
        with self._database.read() as db:
            return not db.execute(sa.select(sa.exists().where(later))).scalar_one()


def _search(db: sa.Connection, wanted: Wanted, limit: int, after: Place | None) -> list[Entry]:
    query = sa.select(objects).where(objects.c.key.icontains(wanted.text, autoescape=True), _before(after))
    if wanted.dataset is not None:
        query = query.where(objects.c.dataset == wanted.dataset)
    if wanted.fate:
        query = query.where(objects.c.fate == wanted.fate.value)
    return [entry(row) for row in db.execute(query.order_by(*_LAST_CHANGED).limit(limit))]


def _newest(
    db: sa.Connection, wanted: Wanted, datasets: Collection[str], limit: int, after: Place | None
) -> list[int]:
    """One short walk along the index for each fate and dataset: no filter makes it look at all rows."""
    found: list[tuple[datetime, int]] = []
    chosen = datasets if wanted.dataset is None else [wanted.dataset]
    for fate in [wanted.fate] if wanted.fate else Fate:
        for dataset in chosen:
            query = sa.select(objects.c.updated, objects.c.id).where(
                objects.c.fate == fate.value, objects.c.dataset == dataset, _before(after)
            )
            found += [
                (row.updated, row.id) for row in db.execute(query.order_by(*_LAST_CHANGED).limit(limit))
            ]
    return [row for _, row in nlargest(limit, found)]


def _before(after: Place | None) -> sa.ColumnElement[bool]:
    if after is None:
        return sa.true()
    place = sa.tuple_(sa.literal(naive(after.updated), sa.DateTime), sa.literal(after.id))
    return sa.tuple_(objects.c.updated, objects.c.id) < place


@contextmanager
def _bounded(db: sa.Connection) -> Iterator[None]:
    """What takes longer than LONGEST_READ is cut off with an error."""
    if db.dialect.name != "sqlite":
        db.execute(sa.text(f"SET LOCAL statement_timeout = {LONGEST_READ * 1000:.0f}"))
        yield
        return
    connection = db.connection.driver_connection
    assert connection
    deadline = time.monotonic() + LONGEST_READ
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)
