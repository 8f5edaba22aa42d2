"""The ledger's database: SQLite in a file, or PostgreSQL; migrated when it is opened."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from dropflow.clock import agree_on, utc_now
from dropflow.errors import LedgerError, TransientError

MIGRATIONS = Path(__file__).with_name("migrations")
_MIGRATION_LOCK = 7_203_115
"""PostgreSQL advisory lock: of several listeners that start at once, one migrates."""


SILENT_SECONDS = 20
"""For which a PostgreSQL that says nothing, to a question or to a probe, is taken for unreachable."""
IDLE_SECONDS = 60
"""After which PostgreSQL ends a transaction that was begun and left: whoever began it holds its locks."""
_PROBES = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 3}
# Linux itself gives up what it has sent after 15 minutes, and asks after a silent peer after two hours.
_PATIENCE = {"connect_timeout": 5, "tcp_user_timeout": SILENT_SECONDS * 1000, **_PROBES}

# The last is what PostgreSQL says when it has ended a transaction that took too long.
_PASSING = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError)
_DENIED = "42501"
"""PostgreSQL's SQLSTATE of a role that lacks a right."""
_GRANT = "the role of DROPFLOW_LEDGER_URL needs all rights to the ledger's tables; best it owns its database"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Database:
    """An engine whose write transactions wait for each other instead of failing."""

    def __init__(self, url: str) -> None:
        """Raises LedgerError when it cannot be opened, TransientError when it cannot be reached."""
        try:
            target = sa.make_url(url)
        except (sa.exc.ArgumentError, ValueError) as error:
            raise LedgerError(
                "DROPFLOW_LEDGER_URL: expected a SQLAlchemy URL, sqlite:/// or postgresql+psycopg://"
            ) from error
        self.is_sqlite = target.get_backend_name() == "sqlite"
        self._file = Path(target.database) if self.is_sqlite and target.database else None
        options: dict[str, Any] = {"pool_pre_ping": not self.is_sqlite}
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            options["connect_args"] = {"timeout": 30}
        if not self.is_sqlite:
            options["connect_args"] = {
                name: value for name, value in _PATIENCE.items() if name not in target.query
            }
        try:
            self.engine = sa.create_engine(target, **options)
        except (sa.exc.ArgumentError, ImportError) as error:
            raise LedgerError(f"DROPFLOW_LEDGER_URL: {error}") from error
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _tune)
            sa.event.listen(self.engine, "begin", _begin)
        else:
            sa.event.listen(self.engine, "connect", _limit)
        # SQLite's own waiting is polling: threads of one process queue here instead.
        self._turn = threading.Lock()
        self._migrate()
        self.set_clock()
        self._inode = self._file.stat().st_ino if self._file else 0

    @property
    def gone(self) -> bool:
        """Whether the file was deleted or replaced: what is written now is in no ledger any more."""
        if self._file is None:
            return False
        try:
            return self._file.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        with _errors(), self.engine.connect().execution_options(write=False) as db:
            yield db

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One durable transaction."""
        turn = self._turn if self.is_sqlite else nullcontext()
        # Else PostgreSQL's driver forgets how many rows an INSERT has made.
        options = {"write": True, "preserve_rowcount": True}
        with _errors(), turn, self.engine.connect().execution_options(**options) as db, db.begin():
            yield db

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """All that is read is of one moment, whoever writes meanwhile."""
        options: dict[str, Any] = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with _errors(), self.engine.connect().execution_options(write=False, **options) as db:
            yield db

    def set_clock(self) -> timedelta:
        """Go by PostgreSQL's clock; returns how far it is ahead of this machine's. Raises TransientError."""
        if self.is_sqlite:
            return timedelta(0)
        with self.read() as db:
            return agree_on(db.execute(sa.select(sa.func.clock_timestamp())).scalar_one())

    def insert(self, table: sa.Table) -> Any:
        """The dialect's own INSERT, which has ON CONFLICT."""
        return (sqlite if self.is_sqlite else postgresql).insert(table)

    def upgrade(self, db: sa.Connection, version: str = "head") -> None:
        """Bring the tables to that version, in the transaction of `db`."""
        from alembic import command

        if not self.is_sqlite:
            db.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        config = _config()
        config.attributes["connection"] = db
        command.upgrade(config, version)

    def _migrate(self) -> None:
        with self.read() as db:
            current = version_of(db)
        known = versions()
        if current == known[-1]:
            return
        if current and current not in known:
            raise LedgerError(
                f"a newer Dropflow has brought the ledger to version {current}, which this one does not "
                "know: upgrade this one, or give it a ledger of its own"
            )
        with self.write() as db:
            self.upgrade(db)


def versions() -> list[str]:
    """All that this Dropflow knows, today's last."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


def version_of(db: sa.Connection) -> str | None:
    """What the tables were brought to; None: there are none."""
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(db).get_current_revision()


def _config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def now() -> datetime:
    """UTC, as the tables hold it."""
    return utc_now().replace(tzinfo=None)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise TransientError("the ledger: all connections are in use") from error
    except (sa.exc.StatementError, OverflowError, UnicodeError) as error:
        raise _told(error) from error


def _told(error: Exception) -> TransientError | LedgerError:
    """What it means, in the driver's words alone: SQLAlchemy's have keys in them, which may say anything."""
    driver: Any = getattr(error, "orig", None)
    text = " ".join(str(driver).split())
    if getattr(driver, "sqlstate", None) == _DENIED:
        # Transient, since nothing is wrong with what was to be written: the store is to send it again.
        return TransientError(f"the ledger: {driver.diag.message_primary}: {_GRANT}")
    if isinstance(error, _PASSING):
        to_do = ": check DROPFLOW_LEDGER_URL" if "authentication failed" in text else ""
        return TransientError(f"the ledger: {text}{to_do}")
    if getattr(driver, "sqlite_errorcode", None) in _DAMAGED:
        return LedgerError("the ledger's file is damaged: delete it, the next sweep rebuilds it")
    return LedgerError(f"the ledger refuses a value: {type(error).__name__}")


def _limit(connection: Any, _record: Any) -> None:
    """The server, too, gives up a listener that is cut off, and with it the locks that others wait for."""
    limits = {
        "tcp_user_timeout": SILENT_SECONDS * 1000,
        "idle_in_transaction_session_timeout": IDLE_SECONDS * 1000,
        **{f"tcp_{name}": value for name, value in _PROBES.items()},
    }
    connection.autocommit = True
    for name, value in limits.items():
        connection.execute(f"SET {name} = {value}")
    connection.autocommit = False


def _tune(connection: Any, _record: Any) -> None:
    # Transactions are begun by us: sqlite3 itself would start them as readers, and fail to upgrade.
    connection.isolation_level = None
    # WAL lets `dropflow status` read while the listener writes; FULL makes every commit durable.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
