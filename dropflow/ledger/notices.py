"""What is to be told, the messages made of it, and which channel has taken them.

An outbox like the deliveries': a message is there in the transaction that takes its notices up, and is
sent afterwards until the channel has taken it. Whoever dies in between sends it again.
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from uuid import uuid4

import sqlalchemy as sa

from dropflow.ledger.database import Database, now
from dropflow.ledger.entries import ChannelState, Fate, Notice, Posting, naive, utc
from dropflow.ledger.tables import messages, notices, objects, sends
from dropflow.objects import ObjectRef

LOST_AFTER = timedelta(minutes=2)
"""A send that was begun and is neither done nor failed: its listener has died."""


class Notices:
    """Notices, messages, sends."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def untold(self, limit: int) -> list[Notice]:
        """The oldest first."""
        query = sa.select(notices).where(notices.c.message.is_(None)).order_by(notices.c.id).limit(limit)
        with self._database.read() as db:
            return [
                Notice(
                    row.id,
                    utc(row.at) or row.at,
                    row.dataset,
                    row.news,
                    ObjectRef(row.bucket, row.key),
                    row.reason,
                    row.seconds,
                    row.run_id,
                    row.report_key,
                )
                for row in db.execute(query)
            ]

    def fates_told(self, found: Collection[Notice]) -> dict[tuple[str, str], str]:
        """What was told last of these objects' keys, where a message told of it."""
        keys = {(one.ref.bucket, one.ref.key) for one in found}
        told = sa.and_(notices.c.message != "", notices.c.news.in_([fate.value for fate in Fate]))
        last: dict[tuple[str, str], str] = {}
        with self._database.read() as db:
            for bucket in {bucket for bucket, _ in keys}:
                names = [key for b, key in keys if b == bucket]
                query = sa.select(notices.c.key, notices.c.news).where(
                    notices.c.bucket == bucket, notices.c.key.in_(names), told
                )
                for row in db.execute(query.order_by(notices.c.id)):
                    last[bucket, row.key] = row.news
        return last

    def recent(self, since: datetime) -> dict[tuple[str, str, str], list[datetime]]:
        """When there were messages of the same dataset, kind and cause, the oldest first."""
        query = sa.select(messages.c.dataset, messages.c.kind, messages.c.cause, messages.c.at)
        found: dict[tuple[str, str, str], list[datetime]] = {}
        with self._database.read() as db:
            for row in db.execute(query.where(messages.c.at >= naive(since)).order_by(messages.c.at)):
                found.setdefault((row.dataset, row.kind, row.cause), []).append(utc(row.at) or row.at)
        return found

    def busy(self) -> set[str]:
        """Datasets of which objects are in flight, or about to be."""
        waits = sa.and_(objects.c.fate == Fate.PENDING.value, objects.c.ready_at <= now())
        query = sa.select(objects.c.dataset).where(sa.or_(objects.c.fate == Fate.DISPATCHED.value, waits))
        with self._database.read() as db:
            return set(db.execute(query.distinct()).scalars())

    def compose(
        self,
        found: Iterable[Notice],
        channels: Iterable[str],
        *,
        dataset: str,
        kind: str,
        cause: str,
        content: str,
    ) -> str:
        """Store a message that tells of the notices, to be sent to the channels; its id."""
        message, moment = str(uuid4()), now()
        rows = [
            {"message": message, "channel": channel, "tries": 0, "due": moment, "error": ""}
            for channel in channels
        ]
        with self._database.write() as db:
            db.execute(
                sa.insert(messages).values(
                    id=message, at=moment, dataset=dataset, kind=kind, cause=cause, content=content
                )
            )
            if rows:
                db.execute(sa.insert(sends), rows)
            _mark(db, found, message)
        return message

    def tell(self, dataset: str, news: str, ref: ObjectRef, reason: str) -> None:
        """Have something told that is no object's fate."""
        with self._database.write() as db:
            tell(db, dataset, news, ref, reason)

    def skip(self, found: Iterable[Notice]) -> None:
        """Nobody wants to be told of these."""
        with self._database.write() as db:
            _mark(db, found, "")

    def forward(self, message: str, channels: Iterable[str]) -> None:
        """Have other channels told, too, that are not told yet."""
        moment = now()
        rows = [
            {"message": message, "channel": channel, "tries": 0, "due": moment, "error": ""}
            for channel in channels
        ]
        if rows:
            with self._database.write() as db:
                db.execute(self._database.insert(sends).on_conflict_do_nothing(), rows)

    def due(self, channel: str) -> Posting | None:
        """Take the message that is to be sent next to the channel, if it is time."""
        moment = now()
        ripe = sa.and_(sends.c.due <= moment, sends.c.channel == channel)
        query = sa.select(sends, messages.c.content).join(messages, messages.c.id == sends.c.message)
        with self._database.read() as db:
            if not db.execute(sa.select(sa.exists().where(ripe))).scalar_one():
                return None
        with self._database.write() as db:
            first = query.where(ripe).order_by(sends.c.due).limit(1)
            row = db.execute(first.with_for_update(skip_locked=True, of=sends)).one_or_none()
            if row is None:
                return None
            db.execute(_send(row).values(due=moment + LOST_AFTER, tries=row.tries + 1))
        return Posting(row.message, row.channel, row.tries + 1, row.content)

    def sent(self, posting: Posting) -> None:
        with self._database.write() as db:
            db.execute(_send(posting).values(due=None, sent=now(), error=""))

    def not_sent(self, posting: Posting, error: str, again: datetime | None) -> None:
        """It is tried again then; None: given up."""
        with self._database.write() as db:
            db.execute(_send(posting).values(due=naive(again), error=error))

    def channels(self) -> list[ChannelState]:
        """Every channel that ever was sent something, by name."""
        last = sa.func.max(sends.c.sent)
        waiting = sa.func.sum(sa.case((sends.c.due.is_not(None), 1), else_=0))
        given_up = sa.func.sum(sa.case((sa.and_(sends.c.due.is_(None), sends.c.sent.is_(None)), 1), else_=0))
        query = sa.select(sends.c.channel, last, waiting, given_up, sa.func.max(sends.c.error))
        with self._database.read() as db:
            rows = db.execute(query.group_by(sends.c.channel).order_by(sends.c.channel)).all()
        return [ChannelState(row[0], utc(row[1]), row[2], row[3], row[4]) for row in rows]

    def prune(self, before: datetime) -> None:
        """Forget what was told long ago."""
        old = sa.select(messages.c.id).where(messages.c.at < naive(before))
        with self._database.write() as db:
            db.execute(sa.delete(sends).where(sends.c.message.in_(old)))
            done = sa.and_(notices.c.message.is_not(None), notices.c.at < naive(before))
            db.execute(sa.delete(notices).where(done))
            db.execute(sa.delete(messages).where(messages.c.at < naive(before)))


def tell(db: sa.Connection, dataset: str, news: str, ref: ObjectRef, reason: str) -> None:
    """In a transaction that changes something else, too."""
    what = {"at": now(), "dataset": dataset, "news": news, "reason": reason}
    place = {"bucket": ref.bucket, "key": ref.key, "run_id": "", "report_key": ""}
    db.execute(sa.insert(notices).values(**what, **place))


def _send(row: object) -> sa.Update:
    message, channel = row.message, row.channel  # type: ignore[attr-defined] # a row or a Posting
    return sa.update(sends).where(sends.c.message == message, sends.c.channel == channel)


def _mark(db: sa.Connection, found: Iterable[Notice], message: str) -> None:
    change = sa.update(notices).where(notices.c.id == sa.bindparam("row")).values(message=message)
    rows = [{"row": one.id} for one in found]
    if rows:
        db.execute(change, rows)
