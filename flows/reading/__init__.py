"""Raw bytes to a DataFrame: CSV, Parquet, JSON lines, Excel; plain or compressed. No Prefect, no store.

Whoever may upload chooses the bytes: whatever they are, a frame or a RejectedError comes of them, within
the memory that `max_bytes` grants.
"""

import inspect
import itertools
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator

import pandas as pd

from dropflow.errors import RejectedError
from dropflow.formats import Reading
from flows.memory import rejecting_out_of_memory
from flows.reading import (
    columns,
    compression,
    delimited,
    excel,
    jsonl,
    parquet,
    plain,
    rejections,
    signatures,
    text,
)
from flows.reading.compression import expand
from flows.reading.plain import NotPlainError as NotPlainError
from flows.reading.signatures import PARQUET, PARQUET_ENCRYPTED, ZIP

_ENDINGS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".xlsx": "excel",
    ".xlsm": "excel",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
}


def _csv(content: bytes, reading: Reading, numbers: frozenset[str]) -> pd.DataFrame:
    try:
        return plain.read(content, reading, numbers)
    except NotPlainError:
        return delimited.read(content, reading, numbers)


_READERS: dict[str, Callable[[bytes, Reading, frozenset[str]], pd.DataFrame]] = {
    "csv": _csv,
    "parquet": parquet.read,
    "jsonl": jsonl.read,
    "excel": excel.read,
}

_MODULES = (
    sys.modules[__name__],
    columns,
    compression,
    delimited,
    excel,
    jsonl,
    parquet,
    plain,
    rejections,
    signatures,
    text,
)


def read(content: bytes, name: str, reading: Reading, numbers: Collection[str]) -> pd.DataFrame:
    """The table that `content` holds.

    `name` is the object's key: only its ending is asked, and only where the bytes do not tell their format.
    Columns not in `numbers` stay text in formats without types. Returns a frame of at least one row, with a
    plain index and distinct names. Raises RejectedError with what is wrong and where, SettingsError when
    Excel is to be read and openpyxl is not installed, TransientError where others hold the memory.
    """
    with rejecting_out_of_memory():
        return _read(content, name, reading, frozenset(numbers))


def _read(content: bytes, name: str, reading: Reading, numbers: frozenset[str]) -> pd.DataFrame:
    if not content:
        raise RejectedError("is empty (0 bytes): the upload may have been cut off; send it again")
    content, member = expand(content, reading)
    kind = _by_magic(content) or _by_ending(name, member) if reading.format == "auto" else reading.format
    frame = _READERS[kind](content, reading, numbers)
    if frame.empty:
        raise RejectedError("has a header but no rows: nothing to prepare")
    return frame


def can_be_streamed(beginning: bytes, name: str, reading: Reading) -> bool:
    """Whether `stream` can read a file of this name that begins so."""
    if reading.format in ("auto", "parquet") and beginning.startswith(PARQUET):
        return True
    kind = _by_ending(name, "") if reading.format == "auto" else reading.format
    return kind == "csv" and delimited.can_be_streamed(beginning, reading)


Stream = Callable[[Iterable[bytes], Reading, Collection[str], int], Iterator[pd.DataFrame]]
stream: Stream = delimited.stream


def stream_fast(
    chunks: Iterable[bytes], reading: Reading, numbers: Collection[str], size: int
) -> Iterator[pd.DataFrame]:
    """As `stream`, by Arrow. Raises NotPlainError, perhaps after some parts, where a CSV is not for it."""
    source = iter(chunks)
    first = next(source, b"")
    read = parquet.stream if first.startswith(PARQUET) else plain.stream
    yield from read(itertools.chain([first], source), reading, numbers, size)


def read_csv(content: bytes, numbers: Collection[str]) -> pd.DataFrame:
    """Parse a comma-separated UTF-8 file with a header row; columns not in `numbers` stay text.

    Returns a frame of at least one row. Raises RejectedError with what is wrong and where.
    """
    return read(content, "", Reading(format="csv", delimiter=","), numbers)


def source() -> str:
    """The source of all that reads a file."""
    return "".join(inspect.getsource(module) for module in _MODULES)


def _by_magic(content: bytes) -> str | None:
    if content.startswith((PARQUET, PARQUET_ENCRYPTED)):
        return "parquet"
    # Archives have been expanded: what still is a ZIP is a workbook.
    return "excel" if content.startswith(ZIP) else None


def _by_ending(name: str, member: str) -> str:
    for candidate in (re.sub(r"\.(gz|gzip|zst|zstd|zip)$", "", name.lower()), member.lower()):
        for ending, kind in _ENDINGS.items():
            if candidate.endswith(ending):
                return kind
    return "csv"
