"""The ledger: the listener's durable working memory. It may be deleted; a sweep rebuilds it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from dropflow.objects import ObjectCreated, ObjectRef


class Fate(StrEnum):
    """Where an object stands."""

    PENDING = "pending"
    """Known, no event posted yet."""
    DISPATCHED = "dispatched"
    """Event posted, receipt awaited."""
    PROCESSED = "processed"
    REJECTED = "rejected"
    IGNORED = "ignored"
    """Belongs to no dataset."""
    FAILED = "failed"


_metadata = sa.MetaData()
_objects = sa.Table(
    "objects",
    _metadata,
    sa.Column("bucket", sa.String, primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("etag", sa.String, primary_key=True),
    sa.Column("version_id", sa.String),
    sa.Column("size", sa.BigInteger),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("dataset", sa.String, nullable=False, default=""),
    sa.Column("fate", sa.String, nullable=False, default=Fate.PENDING.value),
    sa.Column("reason", sa.String, nullable=False, default=""),
    sa.Column("first_seen", sa.DateTime, nullable=False),
    sa.Column("updated", sa.DateTime, nullable=False),
    sa.Index("ix_objects_fate_updated", "fate", "updated"),
)
_unreadable = sa.Table(
    "unreadable",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("received", sa.DateTime, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row: an object and its fate."""

    ref: ObjectRef
    source: str
    dataset: str
    fate: Fate
    reason: str
    first_seen: datetime
    updated: datetime


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _entry(row: Any) -> Entry:
    return Entry(
        ObjectRef(row.bucket, row.key, row.etag, row.size, row.version_id),
        row.source,
        row.dataset,
        Fate(row.fate),
        row.reason,
        row.first_seen.replace(tzinfo=UTC),
        row.updated.replace(tzinfo=UTC),
    )


def _same(ref: ObjectRef) -> sa.ColumnElement[bool]:
    return sa.and_(_objects.c.bucket == ref.bucket, _objects.c.key == ref.key, _objects.c.etag == ref.etag)


_new = insert(_objects)
_insert_or_reopen = _new.on_conflict_do_update(
    index_elements=["bucket", "key", "etag"],
    set_={
        "fate": Fate.PENDING.value,
        "reason": "",
        "first_seen": _new.excluded.first_seen,
        "updated": _new.excluded.updated,
    },
    # As text: SQLAlchemy does not correlate a subquery with the row in conflict.
    where=sa.text(
        "EXISTS (SELECT 1 FROM objects AS newer WHERE newer.bucket = objects.bucket"
        " AND newer.key = objects.key AND newer.etag <> '' AND newer.first_seen > objects.first_seen)"
    ),
)


class Ledger:
    """Objects and their fates in a database. Every method is one transaction; safe across threads."""

    def __init__(self, url: str) -> None:
        target = sa.make_url(url)
        if target.database:
            Path(target.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = sa.create_engine(target, connect_args={"timeout": 30})
        sa.event.listen(self._engine, "connect", _tune)
        _metadata.create_all(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def record(self, created: Iterable[ObjectCreated]) -> int:
        """Store what is new as pending; returns how many are.

        A known object keeps its fate, unless its key held other bytes since: then it is new again.
        """
        now = _now()
        rows = [
            {
                "bucket": c.ref.bucket,
                "key": c.ref.key,
                "etag": c.ref.etag,
                "version_id": c.ref.version_id,
                "size": c.ref.size,
                "source": c.source,
                "first_seen": now,
                "updated": now,
            }
            for c in created
        ]
        if not rows:
            return 0
        with self._engine.begin() as db:
            return db.execute(_insert_or_reopen, rows).rowcount

    def resolve(self, unresolved: ObjectRef, ref: ObjectRef | None) -> None:
        """Replace an entry without etag by the object as the store knows it; None: it is gone."""
        with self._engine.begin() as db:
            row = db.execute(sa.select(_objects).where(_same(unresolved))).one()
            db.execute(sa.delete(_objects).where(_same(unresolved)))
            if ref is not None:
                values = {**row._mapping, "etag": ref.etag, "size": ref.size, "version_id": ref.version_id}
                db.execute(_insert_or_reopen, values)

    def mark(self, ref: ObjectRef, fate: Fate, *, dataset: str = "", reason: str = "") -> None:
        values = {"fate": fate.value, "dataset": dataset, "reason": reason, "updated": _now()}
        with self._engine.begin() as db:
            db.execute(sa.update(_objects).where(_same(ref)).values(**values))

    def reopen(self, *fates: Fate) -> int:
        """Make objects of these fates pending again; returns how many."""
        change = sa.update(_objects).where(_objects.c.fate.in_([fate.value for fate in fates]))
        with self._engine.begin() as db:
            return db.execute(change.values(fate=Fate.PENDING.value, reason="", updated=_now())).rowcount

    def with_fate(self, fate: Fate, limit: int) -> list[Entry]:
        """The entries longest in this state first."""
        query = sa.select(_objects).where(_objects.c.fate == fate.value)
        with self._engine.connect() as db:
            return [_entry(row) for row in db.execute(query.order_by(_objects.c.updated).limit(limit))]

    def find(self, bucket: str, key: str) -> list[Entry]:
        """Every known version of a key, newest first."""
        query = sa.select(_objects).where(_objects.c.bucket == bucket, _objects.c.key == key)
        with self._engine.connect() as db:
            return [_entry(row) for row in db.execute(query.order_by(_objects.c.first_seen.desc()))]

    def counts(self) -> dict[str, dict[Fate, int]]:
        """Number of objects by dataset ("" for none yet) and fate."""
        query = sa.select(_objects.c.dataset, _objects.c.fate, sa.func.count()).group_by(
            _objects.c.dataset, _objects.c.fate
        )
        counts: dict[str, dict[Fate, int]] = {}
        with self._engine.connect() as db:
            for dataset, fate, number in db.execute(query):
                counts.setdefault(dataset, {})[Fate(fate)] = number
        return counts

    def keep_unreadable(self, body: bytes, reason: str) -> None:
        """Store a notification that could not be read, once per distinct body."""
        values = {
            "id": hashlib.sha256(body).hexdigest(),
            "body": body,
            "reason": reason,
            "received": _now(),
        }
        with self._engine.begin() as db:
            db.execute(insert(_unreadable).on_conflict_do_nothing(), values)

    def unreadable(self) -> int:
        with self._engine.connect() as db:
            return db.execute(sa.select(sa.func.count()).select_from(_unreadable)).scalar_one()


def _tune(connection: Any, _record: Any) -> None:
    # WAL lets `dropflow status` read while the listener writes; FULL makes every commit durable.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
