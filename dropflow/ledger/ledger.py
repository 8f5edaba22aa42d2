"""Objects and their fates: every change of a fate goes through here or through the outbox."""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from dropflow.ledger.database import Database, now
from dropflow.ledger.deadlines import Deadlines
from dropflow.ledger.entries import Entry, Fate, Settlement, entry, naive, utc
from dropflow.ledger.notices import Notices
from dropflow.ledger.outbox import Outbox
from dropflow.ledger.pages import Pages
from dropflow.ledger.tables import deliveries, objects, story, unreadable
from dropflow.ledger.transition import fail, note, transition
from dropflow.ledger.watch import Watch
from dropflow.objects import ObjectCreated, ObjectRef

PAGE = 1000
MOST_UNREADABLE = 10_000
LONGEST_UNREADABLE = 64 * 1024
"""Bytes kept of a body that could not be read: enough to see what it was."""
_UNSET = {
    "dataset": "",
    "fate": Fate.PENDING.value,
    "reason": "",
    "ready_at": None,
    "deliveries": 0,
    "event_id": None,
    "look_at": None,
    "due": None,
    "force": False,
    "after": None,
}
# As text: SQLAlchemy compiles ON CONFLICT anew for every transaction, which costs more than writing.
_RECORD = sa.text(
    """
    INSERT INTO objects (bucket, key, etag, version_id, size, modified, source, first_seen, updated,
        dataset, fate, reason, deliveries, force, output_bucket, output_key, output_etag)
    VALUES (:bucket, :key, :etag, :version_id, :size, :modified, :source, :first_seen, :updated,
        '', 'pending', '', 0, FALSE, '', '', '')
    ON CONFLICT (bucket, key, etag) DO UPDATE SET
        dataset = '', fate = 'pending', reason = 'seen again', ready_at = NULL, deliveries = 0,
        event_id = NULL, look_at = NULL, due = NULL, force = FALSE, after = NULL,
        modified = excluded.modified, first_seen = excluded.first_seen, updated = excluded.updated
    WHERE objects.fate IN ('processed', 'rejected', 'ignored', 'failed')
        -- A notification that comes again tells of the same write.
        AND (objects.modified IS NULL OR excluded.modified IS NULL OR excluded.modified > objects.modified)
        AND (
            -- It had vanished before it was prepared, ...
            (objects.fate = 'ignored' AND objects.dataset <> '')
            -- ... or its key has held other bytes since.
            OR EXISTS (
                SELECT 1 FROM objects AS newer
                WHERE newer.bucket = objects.bucket AND newer.key = objects.key AND newer.etag <> ''
                    AND newer.etag <> objects.etag AND newer.first_seen > objects.first_seen
            )
        )
    """
).bindparams(*(sa.bindparam(name, type_=sa.DateTime) for name in ("modified", "first_seen", "updated")))


def _same(ref: ObjectRef) -> sa.ColumnElement[bool]:
    return sa.and_(objects.c.bucket == ref.bucket, objects.c.key == ref.key, objects.c.etag == ref.etag)


class Ledger:
    """Objects and their fates in a database. Every method is one transaction; safe across threads.

    All methods raise TransientError when the database cannot be reached.
    """

    def __init__(self, url: str) -> None:
        """Open, and create or migrate. Raises LedgerError."""
        self.database = Database(url)
        self.outbox = Outbox(self.database)
        self.watch = Watch(self.database)
        self.notices = Notices(self.database)
        self.deadlines = Deadlines(self.database)
        self.pages = Pages(self.database)

    @property
    def gone(self) -> bool:
        return self.database.gone

    def close(self) -> None:
        self.database.close()

    def record(self, created: Iterable[ObjectCreated], outcomes: Iterable[Settlement] = ()) -> int:
        """Store what is new as pending; returns how many are.

        A known object keeps its fate, unless its key held other bytes since, or it had vanished: then
        it is pending again. `outcomes` settle in the same transaction: nobody sees these pending.
        """
        moment = now()
        rows = [
            {
                "bucket": c.ref.bucket,
                "key": c.ref.key,
                "etag": c.ref.etag,
                "version_id": c.ref.version_id,
                "size": c.ref.size,
                "modified": naive(c.ref.modified),
                "source": c.source,
                "first_seen": moment,
                "updated": moment,
            }
            for c in created
        ]
        found = list(outcomes)
        if not rows and not found:
            return 0
        with self.database.write() as db:
            new = db.execute(_RECORD, rows).rowcount if rows else 0
            settled = self._settle(db, found)
            return new - sum(was.first_seen == utc(moment) for was, _ in settled)

    def unmatched(self, limit: int) -> list[Entry]:
        """Pending objects whose dataset is not known yet, the longest waiting first."""
        query = sa.select(objects).where(objects.c.fate == Fate.PENDING.value, objects.c.dataset == "")
        with self.database.read() as db:
            return [entry(row) for row in db.execute(query.order_by(objects.c.updated).limit(limit))]

    def match(self, found: Iterable[tuple[Entry, str, datetime | None]]) -> None:
        """Note the dataset of pending entries and when they may leave; None: when the marker comes."""
        rows = [
            {"row": e.id, "dataset": dataset, "ready_at": naive(ready), "reason": "" if ready else "marker"}
            for e, dataset, ready in found
        ]
        change = sa.update(objects).where(
            objects.c.id == sa.bindparam("row"), objects.c.fate == Fate.PENDING.value
        )
        if rows:
            with self.database.write() as db:
                db.execute(change, rows)

    def awaiting_marker(self) -> Iterator[Entry]:
        """Pending objects that wait for a marker."""
        waiting = sa.and_(
            objects.c.fate == Fate.PENDING.value, objects.c.dataset != "", objects.c.ready_at.is_(None)
        )
        last = 0
        while True:
            page = sa.select(objects).where(waiting, objects.c.id > last).order_by(objects.c.id).limit(PAGE)
            with self.database.read() as db:
                found = [entry(row) for row in db.execute(page)]
            if not found:
                return
            yield from found
            last = found[-1].id

    def resolve(self, unresolved: ObjectRef, ref: ObjectRef | None) -> None:
        """Replace an entry without etag by the object as the store knows it; None: it is gone."""
        with self.database.write() as db:
            row = db.execute(sa.select(objects).where(_same(unresolved))).one_or_none()
            if row is None:
                return
            db.execute(sa.delete(objects).where(objects.c.id == row.id))
            if ref is not None:
                found = {"etag": ref.etag, "size": ref.size, "version_id": ref.version_id}
                db.execute(_RECORD, {**row._mapping, **found, "modified": naive(ref.modified)})

    def postpone(self, found: Entry, reason: str) -> None:
        """Leave it pending, behind all others."""
        self._change([found], {"reason": reason})

    def ignore(self, entries: Collection[Entry], reason: str, dataset: str = "") -> int:
        values = {"fate": Fate.IGNORED.value, "reason": reason, "dataset": dataset, "look_at": None}
        # Without a dataset there is no story: its reason says it all.
        return self._change(entries, values, f"ignored: {reason}" if dataset else "")

    def fail(self, entries: Collection[Entry], reason: str) -> int:
        """Returns how many: what was settled meanwhile stays so."""
        with self.database.write() as db:
            return fail(db, entries, reason)

    def reopen(self, entries: Collection[Entry], reason: str) -> int:
        """Make them pending again, to be delivered as if they were new."""
        return self._change(entries, {**_UNSET, "reason": reason}, f"pending: {reason}")

    def replay(self, entries: Collection[Entry], *, force: bool) -> int:
        """Deliver again although there may be a receipt: only a later one settles them."""
        after = sa.func.coalesce(objects.c.receipt_at, now())
        values = {**_UNSET, "after": after, "force": force, "reason": "replayed"}
        return self._change(entries, values, "pending: replayed")

    def accept_older(self, entries: Collection[Entry]) -> None:
        """A replay has found nothing to do: the receipt from before settles after all."""
        self._change(entries, {"after": None})

    def look_again(self, found: Entry, dataset: str) -> None:
        """Seen again, and not there any more, or not yet: the settler finds out what became of it."""
        moment = now()
        values = {"dataset": dataset, "fate": Fate.DISPATCHED.value, "look_at": moment, "due": moment}
        self._change([found], {**values, "event_id": None, "reason": "seen again, but not there"})

    def rematch(self) -> None:
        """Datasets may have changed: match again what was ignored for want of one, and what waits."""
        ignored = sa.and_(objects.c.fate == Fate.IGNORED.value, objects.c.dataset == "")
        waiting = sa.and_(objects.c.fate == Fate.PENDING.value, objects.c.dataset != "")
        values = {"fate": Fate.PENDING.value, "dataset": "", "reason": "", "updated": now()}
        with self.database.write() as db:
            db.execute(sa.update(objects).where(sa.or_(ignored, waiting)).values(**values))

    def orphaned(self, datasets: Collection[str]) -> int:
        """Reopen what was dispatched to a dataset that is no more; returns how many."""
        gone = sa.and_(objects.c.fate == Fate.DISPATCHED.value, objects.c.dataset.not_in(datasets))
        with self.database.write() as db:
            values = {**_UNSET, "updated": now()}
            return db.execute(sa.update(objects).where(gone).values(**values)).rowcount

    def prune(self, before: datetime) -> None:
        """Forget the stories and deliveries of old; what objects are and became stays."""
        with self.database.write() as db:
            db.execute(sa.delete(story).where(story.c.at < naive(before)))
            db.execute(sa.delete(deliveries).where(deliveries.c.posted < naive(before)))
        self.notices.prune(before)

    def _change(self, entries: Collection[Entry], values: dict[str, Any], what: str = "") -> int:
        if not entries:
            return 0
        with self.database.write() as db:
            return transition(db, entries, values, what)

    def settle(self, outcomes: Iterable[Settlement]) -> list[tuple[Entry, Settlement]]:
        """Give objects the fate of their receipt; returns those whose fate changed.

        An older receipt never replaces a newer one; a replayed object waits for a newer one. Other
        versions of the key that still wait are looked at next: they may have been overwritten.
        """
        with self.database.write() as db:
            return self._settle(db, outcomes)

    def _settle(self, db: sa.Connection, outcomes: Iterable[Settlement]) -> list[tuple[Entry, Settlement]]:
        by_key: dict[tuple[str, str], list[Settlement]] = {}
        for outcome in outcomes:
            by_key.setdefault((outcome.ref.bucket, outcome.ref.key), []).append(outcome)
        moment = now()
        changed: list[tuple[Entry, Settlement]] = []
        siblings: list[int] = []
        for found in self._with_keys(db, list(by_key), lock=True):
            for outcome in by_key[found.ref.bucket, found.ref.key]:
                if outcome.ref.etag == found.ref.etag and _news(found, outcome):
                    changed.append((found, outcome))
                elif outcome.ref.etag != found.ref.etag and found.fate is Fate.DISPATCHED and found.due:
                    siblings.append(found.id)
        if changed:
            db.execute(_SETTLE, [_settled(found, outcome, moment) for found, outcome in changed])
            told = [(f.id, f"{o.fate}: {o.reason}") for f, o in changed]
            db.execute(sa.insert(story), [{"object_id": i, "at": moment, "what": what} for i, what in told])
            note(db, changed)
        if siblings:
            db.execute(sa.update(objects).where(objects.c.id.in_(siblings)).values(look_at=moment))
        return changed

    def _with_keys(
        self, db: sa.Connection, keys: list[tuple[str, str]], *, lock: bool = False
    ) -> list[Entry]:
        found: list[Entry] = []
        for bucket in {bucket for bucket, _ in keys}:
            names = [key for b, key in keys if b == bucket]
            query = sa.select(objects).where(objects.c.bucket == bucket, objects.c.key.in_(names))
            query = query.order_by(objects.c.id).with_for_update() if lock else query
            found += [entry(row) for row in db.execute(query)]
        return found

    def lookup(self, bucket: str, keys: list[str]) -> dict[tuple[str, str], Entry]:
        """Entries by key and etag."""
        with self.database.read() as db:
            found = self._with_keys(db, [(bucket, key) for key in keys])
        return {(e.ref.key, e.ref.etag): e for e in found}

    def versions(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """How many versions of each (bucket, key) are known; one that was settled before counts twice."""
        counts: dict[tuple[str, str], int] = {}
        with self.database.read() as db:
            for found in self._with_keys(db, list(keys)):
                place = (found.ref.bucket, found.ref.key)
                counts[place] = counts.get(place, 0) + (2 if found.receipt_at else 1)
        return counts

    def outputs(self, keys: list[str]) -> set[str]:
        """The identities of the outputs, of these keys, that settled objects have."""
        query = sa.select(objects.c.output_bucket, objects.c.output_key, objects.c.output_etag)
        with self.database.read() as db:
            found = db.execute(query.where(objects.c.output_key.in_(keys)))
            return {ObjectRef(*row).identity for row in found}

    def find(self, bucket: str, key: str) -> list[Entry]:
        """Every known version of a key, newest first."""
        query = sa.select(objects).where(objects.c.bucket == bucket, objects.c.key == key)
        with self.database.read() as db:
            return [entry(row) for row in db.execute(query.order_by(objects.c.first_seen.desc()))]

    def search(
        self,
        *,
        dataset: str | None = None,
        fates: Collection[Fate] = (),
        quarantined: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[Entry]:
        """Entries of a dataset, with one of these fates, first seen in this time; in order of keys.

        `quarantined`: only those of which rows were set aside.
        """
        query = sa.select(objects)
        if dataset is not None:
            query = query.where(objects.c.dataset == dataset)
        if fates:
            query = query.where(objects.c.fate.in_([fate.value for fate in fates]))
        if quarantined:
            query = query.where(objects.c.quarantined > 0)
        if since:
            query = query.where(objects.c.first_seen >= naive(since))
        if until:
            query = query.where(objects.c.first_seen < naive(until))
        with self.database.read() as db:
            ordered = query.order_by(objects.c.bucket, objects.c.key, objects.c.first_seen)
            for row in db.execution_options(yield_per=1000).execute(ordered):
                yield entry(row)

    def story(self, found: Entry) -> list[tuple[datetime, str]]:
        """What happened to the object, with times, the oldest first."""
        query = sa.select(story.c.at, story.c.what).where(story.c.object_id == found.id).order_by(story.c.id)
        with self.database.read() as db:
            return [(utc(row.at) or row.at, row.what) for row in db.execute(query)]

    def counts(self) -> dict[str, dict[Fate, int]]:
        """Number of objects by dataset ("" for none yet) and fate."""
        query = sa.select(objects.c.dataset, objects.c.fate, sa.func.count())
        counts: dict[str, dict[Fate, int]] = {}
        with self.database.read() as db:
            for dataset, fate, number in db.execute(query.group_by(objects.c.dataset, objects.c.fate)):
                counts.setdefault(dataset, {})[Fate(fate)] = number
        return counts

    def oldest(self, *fates: Fate) -> datetime | None:
        """When the object longest in one of these fates was first seen."""
        query = sa.select(sa.func.min(objects.c.first_seen))
        with self.database.read() as db:
            return utc(db.execute(query.where(objects.c.fate.in_([f.value for f in fates]))).scalar_one())

    def keep_unreadable(self, body: bytes, reason: str) -> None:
        """Store a notification that could not be read, once per distinct body; the oldest make room."""
        values = {
            "id": hashlib.sha256(body).hexdigest(),
            "body": body[:LONGEST_UNREADABLE],
            "reason": reason.replace("\0", ""),
            "received": now(),
        }
        with self.database.write() as db:
            db.execute(self.database.insert(unreadable).on_conflict_do_nothing(), values)
            extra = db.execute(sa.select(sa.func.count()).select_from(unreadable)).scalar_one()
            if extra > MOST_UNREADABLE:
                oldest = sa.select(unreadable.c.id).order_by(unreadable.c.received)
                db.execute(
                    sa.delete(unreadable).where(unreadable.c.id.in_(oldest.limit(extra - MOST_UNREADABLE)))
                )

    def unreadable(self) -> int:
        with self.database.read() as db:
            return db.execute(sa.select(sa.func.count()).select_from(unreadable)).scalar_one()


_SETTLE = sa.update(objects).where(objects.c.id == sa.bindparam("row"))


def _settled(found: Entry, outcome: Settlement, moment: datetime) -> dict[str, Any]:
    return {
        "row": found.id,
        "dataset": outcome.dataset,
        "fate": outcome.fate.value,
        "reason": outcome.reason,
        "updated": moment,
        "look_at": None,
        "due": None,
        "force": False,
        "after": None,
        "receipt_at": naive(outcome.receipt_at),
        "output_bucket": outcome.output_bucket,
        "output_key": outcome.output_key,
        "output_etag": outcome.output_etag,
        "quarantined": outcome.quarantined,
    }


def _news(found: Entry, outcome: Settlement) -> bool:
    if found.after:
        return outcome.receipt_at > found.after
    if found.fate not in (Fate.PROCESSED, Fate.REJECTED) or found.receipt_at is None:
        return True
    # Stores tell whole seconds: two receipts of one second differ in what they say.
    same = (found.fate, found.reason, found.output_etag) == (
        outcome.fate,
        outcome.reason,
        outcome.output_etag,
    )
    return outcome.receipt_at >= found.receipt_at and not same
