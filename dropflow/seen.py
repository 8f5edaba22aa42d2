"""A set of strings that does not grow in memory: what one listing showed, to be asked during the next.

Stores list in different orders (S3 by bytes of the key, SeaweedFS folder by folder), so that two
listings cannot be merged as sorted streams; this needs no order.
"""

import sqlite3
from collections.abc import Iterable
from hashlib import blake2b
from types import TracebackType
from typing import Self

CACHE_KIB = 2048


class Seen:
    """64-bit hashes in a temporary file: a false yes once in 10**13 questions to a million strings."""

    def __init__(self) -> None:
        # "" is SQLite's private database on disk, deleted when it is closed.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("CREATE TABLE seen (hash INTEGER PRIMARY KEY) WITHOUT ROWID")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def update(self, texts: Iterable[str]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR IGNORE INTO seen VALUES (?)", ((_hash(text),) for text in texts))
        self._db.execute("COMMIT")

    def __contains__(self, text: str) -> bool:
        found = self._db.execute("SELECT 1 FROM seen WHERE hash = ?", (_hash(text),))
        return found.fetchone() is not None


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
