"""What is to be told, the messages made of it, and which channel has taken them.

An outbox like the deliveries': a message is there in the transaction that takes its notices up, and is
sent afterwards until the channel has taken it. Whoever dies in between sends it again.
"""

import re
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from dropflow.ledger.database import Database, now
from dropflow.ledger.entries import ChannelState, Fate, Notice, Posting, Untold, naive, utc
from dropflow.ledger.tables import messages, notices, objects, sends
from dropflow.notifying import Kind
from dropflow.objects import ObjectRef, printable

GOOD: tuple[Kind, ...] = ("success", "recovered")
BAD: tuple[Kind, ...] = ("rejected", "failure", "waiting")
LONGEST_CAUSE, LONGEST_NAME = 200, 200
_VALUE = re.compile(
    r"""s3://\S+|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d[\d,.:]*"""
)
LOST_AFTER = timedelta(minutes=2)
"""A send that was begun and is neither done nor failed: its listener has died."""


class Notices:
    """Notices, messages, sends."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def untold(self) -> list[Untold]:
        """What no message tells of yet, grouped, the oldest first."""
        number, since, until = sa.func.count(), sa.func.min(notices.c.at), sa.func.max(notices.c.at)
        same = (notices.c.dataset, notices.c.kind, notices.c.cause)
        query = sa.select(*same, number, since, until, sa.func.max(notices.c.id)).group_by(*same)
        with self._database.read() as db:
            rows = db.execute(query.where(notices.c.message.is_(None)).order_by(since)).all()
        return [
            Untold(row[0], row[1], row[2], row[3], utc(row[4]) or row[4], utc(row[5]) or row[5], row[6])
            for row in rows
        ]

    def examples(self, group: Untold, limit: int) -> list[Notice]:
        """The first of a group."""
        query = sa.select(notices).where(_of(group)).order_by(notices.c.id).limit(limit)
        with self._database.read() as db:
            return [
                Notice(ObjectRef(r.bucket, r.key), r.reason, r.seconds, r.run_id, r.report_key)
                for r in db.execute(query)
            ]

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

    def compose(self, group: Untold, channels: Iterable[str], content: Callable[[int], str]) -> bool:
        """Store a message that tells of a group, to be sent to the channels.

        `content`: the message's, given the number of notices. False when another listener was faster.
        """
        message = str(uuid4())
        with self._database.write() as db:
            number = db.execute(sa.update(notices).where(_of(group)).values(message=message)).rowcount
            if number:
                what = {"dataset": group.dataset, "kind": group.kind, "cause": group.cause}
                _store(db, message, channels, content(number), **what)
        return number > 0

    def announce(self, dataset: str, kind: str, channels: Iterable[str], content: str) -> None:
        """Store a message that is about no object."""
        with self._database.write() as db:
            _store(db, str(uuid4()), channels, content, dataset=dataset, kind=kind, cause="")

    def tell(self, dataset: str, kind: Kind, ref: ObjectRef, reason: str) -> None:
        """Have something told that is no object's fate."""
        with self._database.write() as db:
            tell(db, [(dataset, kind, Notice(ref, reason))])

    def skip(self, group: Untold) -> None:
        """Nobody wants to be told of these."""
        with self._database.write() as db:
            db.execute(sa.update(notices).where(_of(group)).values(message=""))

    def reroute(self, known: Collection[str], to: Iterable[str]) -> int:
        """What waits for channels that are no more goes to others; returns how many messages."""
        lost = sa.and_(sends.c.due.is_not(None), sends.c.channel.not_in(known))
        with self._database.write() as db:
            waiting = set(db.execute(sa.select(sends.c.message).where(lost)).scalars())
            if waiting:
                db.execute(sa.update(sends).where(lost).values(due=None, error="no such channel any more"))
                rows = [row for message in waiting for row in _rows(message, to)]
                db.execute(self._database.insert(sends).on_conflict_do_nothing(), rows)
        return len(waiting)

    def forward(self, message: str, channels: Iterable[str]) -> None:
        """Have other channels told, too, that are not told yet."""
        if rows := _rows(message, channels):
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
        since = sa.func.min(sa.case((sends.c.due.is_not(None), messages.c.at)))
        query = sa.select(sends.c.channel, last, waiting, given_up, sa.func.max(sends.c.error), since)
        query = query.join(messages, messages.c.id == sends.c.message)
        with self._database.read() as db:
            rows = db.execute(query.group_by(sends.c.channel).order_by(sends.c.channel)).all()
        return [ChannelState(row[0], utc(row[1]), row[2], row[3], row[4], utc(row[5])) for row in rows]

    def prune(self, before: datetime) -> None:
        """Forget what was told long ago."""
        old = sa.select(messages.c.id).where(messages.c.at < naive(before))
        with self._database.write() as db:
            db.execute(sa.delete(sends).where(sends.c.message.in_(old)))
            done = sa.and_(notices.c.message.is_not(None), notices.c.at < naive(before))
            db.execute(sa.delete(notices).where(done))
            db.execute(sa.delete(messages).where(messages.c.at < naive(before)))


def tell(db: sa.Connection, told: Iterable[tuple[str, Kind, Notice]]) -> None:
    """In a transaction that changes something else, too. `told`: datasets, kinds and notices."""
    moment = now()
    rows = [
        {
            "at": moment,
            "dataset": dataset,
            "kind": kind,
            "bucket": notice.ref.bucket,
            "key": notice.ref.key,
            "reason": notice.reason,
            "cause": cause_of(notice.reason, notice.ref) if kind in BAD else "",
            "seconds": notice.seconds,
            "run_id": notice.run_id,
            "report_key": notice.report_key,
        }
        for dataset, kind, notice in told
    ]
    if rows:
        db.execute(sa.insert(notices), rows)


def forget_bad(db: sa.Connection, good: Collection[ObjectRef]) -> set[tuple[str, str]]:
    """These are good now: what was bad before needs not be told any more.

    Returns bucket and key of those that were told of as bad.
    """
    found: set[tuple[str, str]] = set()
    for bucket in {ref.bucket for ref in good}:
        here = sa.and_(
            notices.c.bucket == bucket,
            notices.c.key.in_([ref.key for ref in good if ref.bucket == bucket]),
            notices.c.kind.in_([*BAD, *GOOD]),
        )
        bad: dict[str, bool] = {}
        untold: dict[str, list[int]] = {}
        query = sa.select(notices.c.id, notices.c.key, notices.c.kind, notices.c.message)
        for row in db.execute(query.where(here).order_by(notices.c.id)):
            if row.kind in GOOD:
                bad[row.key], untold[row.key] = False, []
            elif row.message is None:
                untold.setdefault(row.key, []).append(row.id)
            elif row.message:
                bad[row.key] = True
        found |= {(bucket, key) for key, was in bad.items() if was}
        if ids := [one for some in untold.values() for one in some]:
            db.execute(sa.update(notices).where(notices.c.id.in_(ids)).values(message=""))
    return found


def cause_of(reason: str, ref: ObjectRef) -> str:
    """What the reasons of files with the same fault have in common: no names, values or numbers."""
    plain = reason.partition("\n")[0]
    place = f"{ref.bucket}/{ref.key}"
    for own in (ref.url, place, ref.key, ref.name):
        for name in (own, printable(own, LONGEST_NAME)):
            plain = plain.replace(name, "…")
    return _VALUE.sub("…", plain)[:LONGEST_CAUSE]


def _of(group: Untold) -> sa.ColumnElement[bool]:
    return sa.and_(
        notices.c.message.is_(None),
        notices.c.dataset == group.dataset,
        notices.c.kind == group.kind,
        notices.c.cause == group.cause,
        notices.c.id <= group.last,
    )


def _store(db: sa.Connection, message: str, channels: Iterable[str], content: str, **what: str) -> None:
    db.execute(sa.insert(messages).values(id=message, at=now(), content=content, **what))
    if rows := _rows(message, channels):
        db.execute(sa.insert(sends), rows)


def _rows(message: str, channels: Iterable[str]) -> list[dict[str, Any]]:
    moment = now()
    return [
        {"message": message, "channel": channel, "tries": 0, "due": moment, "error": ""}
        for channel in channels
    ]


def _send(row: object) -> sa.Update:
    message, channel = row.message, row.channel  # type: ignore[attr-defined] # a row or a Posting
    return sa.update(sends).where(sends.c.message == message, sends.c.channel == channel)
