"""The outbox: objects are claimed for an event in one transaction, and the event is posted afterwards.

Whoever dies in between leaves a delivery that is not posted; it is posted again under the same id,
which Prefect takes for the same event.
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import uuid4

import sqlalchemy as sa
import sqlalchemy.orm

from dropflow.ledger.database import Database, now
from dropflow.ledger.entries import (
    INTERRUPTED,
    PAUSED,
    Delivery,
    Entry,
    Fate,
    Notice,
    entry,
    naive,
    paused_reason,
    utc,
)
from dropflow.ledger.notices import tell
from dropflow.ledger.tables import deliveries, objects, story
from dropflow.ledger.transition import fail, redeliver, transition
from dropflow.objects import ObjectRef

SUPERSEDED = "overwritten before it was prepared"
SIZES = (500, 100, 10, 1)
"""Objects in a first, second, … delivery: one that kills its run is alone in the end."""
FEWEST = 200
"""Objects that are not divided among deliveries: one run has all cores of a machine."""
MOST_KEY_BYTES = 200_000
"""Of one delivery's keys: Prefect refuses run parameters over 512 KiB."""
HOLD_BATCH, OVERLAP = 1000, timedelta(seconds=10)
LISTENER_LOST_AFTER = timedelta(seconds=15)
"""For which a claimed delivery has not been posted."""


class Gather(NamedTuple):
    """How objects wait for others to leave with: a run costs much before it has prepared anything.

    While one of `machines` has no run they leave at once. Else fewer than `many` wait while objects that left
    within `lately` are at work: their run ends soon, and longer ones are not waited for. So many are worth a
    run that begins while others, with all cores of their machine, end: they leave when none has come for
    `quiet` and at most `few` are left at work, or `longest` after the last ones.
    """

    many: int
    lately: timedelta
    quiet: timedelta
    few: int
    longest: timedelta
    machines: int = 1


class Outbox:
    """Deliveries: claimed, posted, looked after, given up."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self, dataset: str, holder: str, most_in_flight: int, gather: Gather | None = None
    ) -> Delivery | None:
        """Take what waits for the dataset; None when nothing does, or enough is in flight already.

        `gather`: how it waits for others; not at all, if None.
        """
        moment = now()
        ordered = (
            sa.select(objects).where(_waiting(dataset, moment)).order_by(objects.c.ready_at, objects.c.id)
        )
        with self._database.write() as db:
            if not self._database.is_sqlite:
                # Two listeners counting at once would both find room for one more.
                db.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(dataset))))
            if self._in_flight(db, dataset) >= most_in_flight:
                return None
            first = db.execute(ordered.limit(1)).one_or_none()
            if first is None or self._gathers(db, dataset, first.ready_at, gather):
                return None
            # They need no smaller company: it was not one of them that kept their run from its work.
            is_interrupted = first.reason.startswith(INTERRUPTED)
            interrupted = objects.c.reason.startswith(INTERRUPTED)
            alike = sa.and_(
                objects.c.deliveries == first.deliveries,
                objects.c.force == first.force,
                interrupted if is_interrupted else sa.not_(interrupted),
            )
            runs = gather.machines if gather else most_in_flight
            size = SIZES[0 if is_interrupted else min(first.deliveries, len(SIZES) - 1)]
            size = _share(_number(db, _waiting(dataset, moment), runs * size), runs, size)
            found = [entry(row) for row in db.execute(ordered.where(alike).limit(size).with_for_update())]
            chosen = _fitting(self._without_superseded(db, found))
            if not chosen:
                return None
            delivery = Delivery(
                str(uuid4()), dataset, first.deliveries + 1, first.force, [e.ref for e in chosen]
            )
            db.execute(
                sa.insert(deliveries).values(
                    id=delivery.id,
                    dataset=dataset,
                    number=delivery.number,
                    objects=len(chosen),
                    force=delivery.force,
                    created=moment,
                    holder=holder,
                    claimed=moment,
                )
            )
            db.execute(
                sa.update(objects)
                .where(objects.c.id.in_([e.id for e in chosen]))
                .values(
                    fate=Fate.DISPATCHED.value,
                    reason="event is being posted",
                    updated=moment,
                    deliveries=delivery.number,
                    event_id=delivery.id,
                    look_at=None,
                    due=None,
                )
            )
            what = f"delivery {delivery.number}: event {delivery.id} with {len(chosen)} objects for {dataset}"
            db.execute(sa.insert(story), [{"object_id": e.id, "at": moment, "what": what} for e in chosen])
            return delivery

    def waits(self, dataset: str) -> bool:
        """Whether an object of the dataset is ready to leave."""
        with self._database.read() as db:
            return bool(db.execute(sa.select(sa.exists().where(_waiting(dataset, now())))).scalar())

    def gathers(self, dataset: str, gather: Gather | None) -> bool:
        """Whether what waits for the dataset waits for others to leave with."""
        with self._database.read() as db:
            first = db.execute(sa.select(sa.func.min(objects.c.ready_at)).where(_waiting(dataset, now())))
            since = first.scalar_one()
            return since is not None and self._gathers(db, dataset, since, gather)

    def hold(self, dataset: str, since: datetime | None) -> datetime:
        """The dataset is paused: say so of what would leave otherwise. Returns when.

        `since`: when it was done last; what has not changed since is held already.
        """
        moment, reason = now(), paused_reason(dataset)
        new = sa.and_(_waiting(dataset, moment), objects.c.reason != reason)
        if since:
            lately = naive(since - OVERLAP)
            new = sa.and_(new, sa.or_(objects.c.updated >= lately, objects.c.ready_at >= lately))
        some = sa.select(objects.c.id).where(new).limit(HOLD_BATCH)
        while True:
            with self._database.read() as db:
                ids = list(db.execute(some).scalars())
            if not ids:
                return moment.replace(tzinfo=UTC)
            with self._database.write() as db:
                still = sa.and_(objects.c.id.in_(ids), objects.c.fate == Fate.PENDING.value)
                told = sa.select(objects.c.id, sa.literal(moment, sa.DateTime), sa.literal(reason)).where(
                    still
                )
                db.execute(sa.insert(story).from_select(["object_id", "at", "what"], told))
                db.execute(sa.update(objects).where(still).values(reason=reason, updated=moment))

    def release(self, dataset: str) -> None:
        """The dataset is paused no more: what is held waits for its turn."""
        held = sa.and_(objects.c.fate == Fate.PENDING.value, objects.c.dataset == dataset)
        with self._database.write() as db:
            query = sa.update(objects).where(held, objects.c.reason == paused_reason(dataset))
            db.execute(query.values(reason="", updated=now()))

    def held(self) -> dict[str, int]:
        """How many objects are held, by dataset."""
        held = sa.and_(objects.c.fate == Fate.PENDING.value, objects.c.reason.startswith(PAUSED))
        query = sa.select(objects.c.dataset, sa.func.count().label("number")).where(held)
        with self._database.read() as db:
            return {row.dataset: row.number for row in db.execute(query.group_by(objects.c.dataset))}

    def _without_superseded(self, db: sa.Connection, found: list[Entry]) -> list[Entry]:
        """Of several versions of a key that wait, a run can only prepare the one that is there."""
        newer = sa.orm.aliased(objects)
        same_key = sa.and_(newer.c.bucket == objects.c.bucket, newer.c.key == objects.c.key)
        later = sa.and_(newer.c.fate == Fate.PENDING.value, newer.c.first_seen > objects.c.first_seen)
        ids = [e.id for e in found]
        query = sa.select(objects.c.id).where(objects.c.id.in_(ids), sa.exists().where(same_key, later))
        superseded = set(db.execute(query).scalars())
        values = {"fate": Fate.IGNORED.value, "reason": SUPERSEDED, "look_at": None}
        transition(db, [e for e in found if e.id in superseded], values, f"ignored: {SUPERSEDED}")
        return [e for e in found if e.id not in superseded]

    def _in_flight(self, db: sa.Connection, dataset: str) -> int:
        query = sa.select(sa.func.count(sa.distinct(objects.c.event_id))).where(_at_work(dataset))
        return db.execute(query).scalar_one()

    def _gathers(self, db: sa.Connection, dataset: str, first: datetime, gather: Gather | None) -> bool:
        """Whether what waits since `first` waits on: for others, or for cores."""
        if gather is None or self._in_flight(db, dataset) < gather.machines:
            return False
        moment = now()
        at_work = sa.select(objects.c.event_id).where(_at_work(dataset))
        query = sa.select(sa.func.max(deliveries.c.created)).where(deliveries.c.id.in_(at_work))
        # Another listener may have settled all that was at work.
        last = db.execute(query).scalar_one() or datetime.min
        if moment - max(first, last) >= gather.longest:
            return False
        if _number(db, _waiting(dataset, moment), gather.many) < gather.many:
            return moment - last < gather.lately
        latest = sa.select(sa.func.max(objects.c.ready_at)).where(_waiting(dataset, moment))
        # Another listener may have settled all that waited.
        if moment - (db.execute(latest).scalar_one() or first) < gather.quiet:
            return True
        left = sa.select(sa.func.count()).where(_at_work(dataset))
        return bool(db.execute(left).scalar_one() > gather.few)

    def unposted(self, holder: str) -> list[Delivery]:
        """Deliveries claimed but not posted: our own, and those whose listener is gone."""
        moment = now()
        ours = sa.or_(deliveries.c.holder == holder, deliveries.c.claimed < moment - LISTENER_LOST_AFTER)
        query = sa.select(deliveries).where(deliveries.c.posted.is_(None), ours)
        with self._database.write() as db:
            rows = db.execute(query.with_for_update(skip_locked=True)).all()
            if not rows:
                return []
            taken = deliveries.c.id.in_([row.id for row in rows])
            db.execute(sa.update(deliveries).where(taken).values(holder=holder, claimed=moment))
            return [
                Delivery(row.id, row.dataset, row.number, row.force, self._refs(db, row.id)) for row in rows
            ]

    def _refs(self, db: sa.Connection, event_id: str) -> list[ObjectRef]:
        return [entry(row).ref for row in db.execute(sa.select(objects).where(_inside(event_id)))]

    def posted(self, delivery: Delivery, look_at: datetime, due: datetime) -> None:
        """Note that Prefect has taken the event, and when to look after its objects."""
        with self._database.write() as db:
            db.execute(sa.update(deliveries).where(deliveries.c.id == delivery.id).values(posted=now()))
            db.execute(
                sa.update(objects)
                .where(_inside(delivery.id))
                .values(reason="event posted", look_at=naive(look_at), due=naive(due))
            )

    def posted_at(self, event_ids: Collection[str]) -> dict[str, datetime]:
        query = sa.select(deliveries.c.id, deliveries.c.posted).where(
            deliveries.c.id.in_(event_ids), deliveries.c.posted.is_not(None)
        )
        with self._database.read() as db:
            return {row.id: row.posted.replace(tzinfo=UTC) for row in db.execute(query)}

    def to_look_after(self, limit: int, again: timedelta, each: timedelta = timedelta(0)) -> list[Entry]:
        """Dispatched objects whose time to be looked at has come.

        They come again after `again`, or `each` times the number of all dispatched ones if that is longer.
        """
        moment = now()
        ripe = sa.and_(objects.c.fate == Fate.DISPATCHED.value, objects.c.look_at <= moment)
        query = sa.select(objects).where(ripe).order_by(objects.c.look_at).limit(limit)
        with self._database.write() as db:
            found = [entry(row) for row in db.execute(query.with_for_update(skip_locked=True))]
            if found:
                ids = [e.id for e in found]
                waiting = sa.select(sa.func.count()).where(objects.c.fate == Fate.DISPATCHED.value)
                again = max(again, each * db.execute(waiting).scalar_one())
                db.execute(sa.update(objects).where(objects.c.id.in_(ids)).values(look_at=moment + again))
            return found

    def wait_on(self, entries: Collection[Entry], due: datetime, reason: str) -> None:
        """Somebody is at work on them: ask again later."""
        if entries:
            with self._database.write() as db:
                transition(db, entries, {"due": naive(due), "reason": reason})

    def redeliver(
        self, entries: Collection[Entry], reason: str, ready_at: datetime, *, told: bool = False
    ) -> None:
        """Nobody is at work on them: they leave again with a new event. `told`: that they wait."""
        if entries:
            with self._database.write() as db:
                if redeliver(db, entries, reason, ready_at) and told:
                    tell(db, [(one.dataset, "waiting", Notice(one.ref, reason)) for one in entries])

    def refused(self, delivery: Delivery, reason: str, ready_at: datetime) -> None:
        """Prefect does not take this event: its objects leave again in smaller company.

        One that was alone already has failed.
        """
        with self._database.write() as db:
            entries = [entry(row) for row in db.execute(sa.select(objects).where(_inside(delivery.id)))]
            # In one transaction: without their delivery, nobody would look after them.
            db.execute(sa.delete(deliveries).where(deliveries.c.id == delivery.id))
            if len(entries) == 1:
                fail(db, entries, reason)
            else:
                redeliver(db, entries, reason, ready_at)

    def waiting_since(self) -> datetime | None:
        """Since when the object that has waited longest could have left, and has not; but for held ones."""
        pending = sa.and_(objects.c.fate == Fate.PENDING.value, objects.c.reason.not_like(f"{PAUSED}%"))
        ripe = sa.and_(pending, sa.or_(objects.c.ready_at <= now(), objects.c.dataset == ""))
        # What is replayed was ready long ago, and waits since it was replayed.
        since = sa.case(
            (objects.c.dataset == "", objects.c.first_seen),
            (objects.c.ready_at > objects.c.updated, objects.c.ready_at),
            else_=objects.c.updated,
        )
        ready = sa.select(sa.func.min(since)).where(ripe)
        claimed = sa.select(sa.func.min(deliveries.c.created)).where(deliveries.c.posted.is_(None))
        with self._database.read() as db:
            found = [db.execute(query).scalar_one() for query in (ready, claimed)]
        return utc(min((moment for moment in found if moment), default=None))

    def in_flight_since(self) -> datetime | None:
        """When the oldest event was made of whose objects one still awaits its receipt."""
        awaited = sa.select(objects.c.event_id).where(objects.c.fate == Fate.DISPATCHED.value)
        query = sa.select(sa.func.min(deliveries.c.created)).where(deliveries.c.id.in_(awaited))
        with self._database.read() as db:
            return utc(db.execute(query.where(deliveries.c.posted.is_not(None))).scalar_one())

    def counts(self) -> tuple[int, int]:
        """Events posted so far, and how many of them were deliveries after the first."""
        query = sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(sa.case((deliveries.c.number > 1, 1), else_=0)), 0)
        ).where(deliveries.c.posted.is_not(None))
        with self._database.read() as db:
            posted, again = db.execute(query).one()
        return posted, again


def _share(number: int, runs: int, most: int) -> int:
    """How many of those that wait leave together: leaving as many to each other run keeps all cores busy."""
    return min(most, max(FEWEST, -(-number // runs)))


def _number(db: sa.Connection, like: sa.ColumnElement[bool], most: int) -> int:
    """Of such objects; no more than `most` are counted."""
    some = sa.select(objects.c.id).where(like).limit(most).subquery()
    return db.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()


def _waiting(dataset: str, moment: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(
        objects.c.fate == Fate.PENDING.value, objects.c.dataset == dataset, objects.c.ready_at <= moment
    )


def _at_work(dataset: str) -> sa.ColumnElement[bool]:
    return sa.and_(objects.c.fate == Fate.DISPATCHED.value, objects.c.dataset == dataset)


def _inside(event_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(objects.c.event_id == event_id, objects.c.fate == Fate.DISPATCHED.value)


def _fitting(entries: list[Entry]) -> list[Entry]:
    """As many of the entries, at least one, as one delivery's keys may take."""
    room = MOST_KEY_BYTES
    for number, found in enumerate(entries):
        room -= len(found.ref.key.encode()) + 100
        if room < 0 and number:
            return entries[:number]
    return entries
