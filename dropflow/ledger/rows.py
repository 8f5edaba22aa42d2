"""The ledger's rows as lines of JSON: out of one database, into another, of SQLite or PostgreSQL alike."""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from dropflow.errors import BackupError
from dropflow.ledger.database import Database, now, version_of, versions
from dropflow.ledger.tables import listeners, metadata
from dropflow.ledger.watch import SILENT

PASSING = {"listeners", "sources", "sweeps", "leases"}
"""Of processes that run now, and what they saw last: wrong for those that run another day."""
KEPT = [table.name for table in metadata.sorted_tables if table.name not in PASSING]
CHUNK_ROWS, CHUNK_BYTES = 1_000, 4 * 2**20

Lines = Iterable[bytes]


def dump(db: sa.Connection, name: str) -> Iterator[bytes]:
    """The rows of a table, each a line. For all of one moment: `Database.snapshot`."""
    table = metadata.tables[name]
    query = sa.select(table).order_by(*table.primary_key).execution_options(yield_per=CHUNK_ROWS)
    for row in db.execute(query).mappings():
        line = json.dumps({key: _plain(value) for key, value in row.items()}, ensure_ascii=False)
        yield line.encode("utf-8", "surrogatepass") + b"\n"


def load(database: Database, version: str, tables: Mapping[str, Lines], numbers: Mapping[str, int]) -> None:
    """Fill an empty ledger with rows of that version, and bring it to today's, in one transaction.

    `numbers`: of rows that each table has to have. Raises BackupError, and then nothing has changed, when
    the ledger holds anything or a listener is at work on it, and when rows do not fit or are missing.
    """
    known = versions()
    if version not in known:
        raise BackupError(
            f"the backup's ledger is of version {version}, this Dropflow knows {known[-1]}: upgrade it first"
        )
    with database.write() as db:
        _refuse_unless_empty(db)
        # Made anew in the form that the rows were written in: migrations know what becomes of these.
        metadata.drop_all(db)
        db.execute(sa.text("DROP TABLE alembic_version"))
        database.upgrade(db, version)
        then = sa.MetaData()
        then.reflect(db)
        for name, lines in tables.items():
            number = _fill(db, _table(then, name), lines)
            if number != numbers[name]:
                raise BackupError(f"{name} has {number:,} rows, {numbers[name]:,} are told of")
        if not database.is_sqlite:
            _count_on(db, then)
        if version_of(db) != known[-1]:
            database.upgrade(db)


def _refuse_unless_empty(db: sa.Connection) -> None:
    if db.execute(sa.select(listeners).where(listeners.c.heartbeat > now() - SILENT)).first():
        raise BackupError("a listener is at work on this ledger: stop it, and try again in 15 seconds")
    for name in KEPT:
        if db.execute(sa.select(sa.literal(1)).select_from(metadata.tables[name]).limit(1)).first():
            raise BackupError(
                "the ledger is not empty, and a backup replaces nothing: restore before the first listener "
                "starts, into another DROPFLOW_LEDGER_URL, or delete what is there"
            )


def _table(then: sa.MetaData, name: str) -> sa.Table:
    if name in PASSING or name not in then.tables or name == "alembic_version":
        raise BackupError(f"the backup has rows of {name!r}, which is no table of its version of the ledger")
    return then.tables[name]


def _fill(db: sa.Connection, table: sa.Table, lines: Lines) -> int:
    readers = {column.name: _reader(column) for column in table.columns}
    number, size = 0, 0
    rows: list[dict[str, Any]] = []
    for line in lines:
        number += 1
        size += len(line)
        rows.append(_row(line, readers, f"{table.name}, line {number}"))
        if len(rows) >= CHUNK_ROWS or size >= CHUNK_BYTES:
            db.execute(sa.insert(table), rows)
            rows, size = [], 0
    if rows:
        db.execute(sa.insert(table), rows)
    return number


def _count_on(db: sa.Connection, then: sa.MetaData) -> None:
    """PostgreSQL counts ids in sequences, which know nothing of rows that brought theirs along."""
    for table in then.tables.values():
        for column in table.columns:
            if column.primary_key and isinstance(column.type, sa.Integer):
                sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
                last = sa.select(sa.func.max(column)).scalar_subquery()
                db.execute(sa.select(sa.func.setval(sequence, last)).where(last.is_not(None)))


def _row(line: bytes, readers: Mapping[str, Callable[[Any], Any]], where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
        if not isinstance(found, dict) or found.keys() != readers.keys():
            raise BackupError(f"{where}: expected the columns {', '.join(readers)}")
        return {name: read(found[name]) for name, read in readers.items()}
    except (ValueError, TypeError, RecursionError) as error:
        # Not the value: it may be a key, or what somebody wrote into one.
        raise BackupError(f"{where}: a value is not what its column holds") from error


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _reader(column: sa.Column[Any]) -> Callable[[Any], Any]:
    """What makes a column's value of JSON's; it raises TypeError or ValueError."""
    read = next(reader for kind, reader in _READERS.items() if isinstance(column.type, kind))

    def value_of(value: Any) -> Any:
        if value is None and column.nullable:
            return None
        return read(value)

    return value_of


def _of(*kinds: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        # True is an int, too.
        if type(value) not in kinds:
            raise TypeError
        return value

    return read


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(_of(str)(value))
    if moment.tzinfo:
        raise ValueError
    return moment


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(_of(str)(value), validate=True)
    except binascii.Error as error:
        raise ValueError from error


_READERS: dict[type[sa.types.TypeEngine[Any]], Callable[[Any], Any]] = {
    sa.Boolean: _of(bool),
    sa.Integer: _of(int),
    sa.Float: _of(int, float),
    sa.DateTime: _moment,
    sa.LargeBinary: _bytes,
    sa.String: _of(str),
}
