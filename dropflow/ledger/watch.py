"""Who listens, through what, and what the last sweep found: for `dropflow status` and each other."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from dropflow.clock import utc_now
from dropflow.ledger.database import Database, now
from dropflow.ledger.entries import Listening, Source, SweepReport, naive
from dropflow.ledger.tables import leases, listeners, sources, sweeps

FORGET = timedelta(hours=1)
"""Listeners without a heartbeat for so long are not shown any more."""
SILENT = timedelta(seconds=15)
"""A listener without a heartbeat for so long is not running."""


class Watch:
    """Heartbeats, sources, sweeps and leases."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, listener: str, name: str) -> None:
        """This listener is alive."""
        self._database.set_clock()
        moment = now()
        new = self._database.insert(listeners).values(
            id=listener, name=name, started=moment, heartbeat=moment
        )
        with self._database.write() as db:
            db.execute(new.on_conflict_do_update(index_elements=["id"], set_={"heartbeat": moment}))
            gone = sa.select(listeners.c.id).where(listeners.c.heartbeat < moment - FORGET)
            db.execute(sa.delete(sources).where(sources.c.listener.in_(gone)))
            db.execute(sa.delete(listeners).where(listeners.c.heartbeat < moment - FORGET))

    def leave(self, listener: str) -> None:
        """This listener stops in order."""
        with self._database.write() as db:
            db.execute(sa.delete(sources).where(sources.c.listener == listener))
            db.execute(sa.delete(listeners).where(listeners.c.id == listener))
            db.execute(sa.delete(leases).where(leases.c.holder == listener))

    def listeners(self) -> list[Listening]:
        with self._database.read() as db:
            rows = db.execute(sa.select(listeners).order_by(listeners.c.started)).all()
        return [Listening(r.id, r.name, _utc(r.started), _utc(r.heartbeat)) for r in rows]

    def report(self, listener: str, name: str, live: bool, detail: str = "") -> None:
        """A source works, or does not, from now on."""
        values = {"live": live, "since": now(), "detail": detail}
        new = self._database.insert(sources).values(listener=listener, name=name, **values)
        changed = new.on_conflict_do_update(
            index_elements=["listener", "name"],
            set_=values,
            where=sa.or_(sources.c.live != live, sources.c.detail != detail),
        )
        with self._database.write() as db:
            db.execute(changed)

    def sources(self) -> list[Source]:
        """A source of a listener that is not running is not live, since its last heartbeat."""
        silent_since = utc_now() - SILENT
        silent = {one.id: one.heartbeat for one in self.listeners() if one.heartbeat < silent_since}
        with self._database.read() as db:
            rows = db.execute(sa.select(sources).order_by(sources.c.name)).all()
        return [
            Source(r.listener, r.name, live=False, since=silent[r.listener], detail="listener not running")
            if r.listener in silent
            else Source(r.listener, r.name, r.live, _utc(r.since), r.detail)
            for r in rows
        ]

    def swept(self, report: SweepReport) -> None:
        values = {**asdict(report), "started": naive(report.started)}
        new = self._database.insert(sweeps).values(id=1, **values)
        with self._database.write() as db:
            db.execute(new.on_conflict_do_update(index_elements=["id"], set_=values))

    def last_sweep(self) -> SweepReport | None:
        """None: there was none since the ledger was made."""
        with self._database.read() as db:
            row = db.execute(sa.select(sweeps)).one_or_none()
        if row is None:
            return None
        values = {name: value for name, value in row._mapping.items() if name != "id"}
        return SweepReport(**{**values, "started": _utc(row.started)})

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew a lease; False while another holds it."""
        moment = now()
        values = {"holder": holder, "until": moment + timedelta(seconds=seconds)}
        new = self._database.insert(leases).values(name=name, **values)
        free = sa.or_(leases.c.holder == holder, leases.c.until < moment)
        with self._database.write() as db:
            taken = new.on_conflict_do_update(index_elements=["name"], set_=values, where=free)
            return db.execute(taken).rowcount > 0

    def release(self, name: str, holder: str) -> None:
        with self._database.write() as db:
            db.execute(sa.delete(leases).where(leases.c.name == name, leases.c.holder == holder))


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)
