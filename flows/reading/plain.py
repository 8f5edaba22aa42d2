"""Plain CSV by Arrow's parser: up to three times as fast as pandas', and much more particular.

What it reads is what pandas reads. Whatever else a file has (gaps that are written out, rows too short,
bytes that are no UTF-8) is not for it: `NotPlainError`, and the file is read by flows/reading/delimited.py.
"""

import io
import itertools
from codecs import BOM_UTF8
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import compute, csv

from dropflow.errors import RejectedError
from dropflow.formats import Reading
from flows.ahead import mapped
from flows.reading import delimited
from flows.reading.columns import EXACT

QUOTE = b'"'
LONGEST = 4
"""Parts, that a line may be long."""
BEGINNING = 2**16
"""Bytes that tell header and delimiter."""
LARGEST = 2**30
"""Bytes that Arrow is given as one block, from all of which it infers types."""


class NotPlainError(Exception):
    """The file needs a reader that puts up with more."""


def read(content: bytes, reading: Reading, numbers: frozenset[str]) -> pd.DataFrame:
    """What `delimited.read` gives, to its types: only whole numbers with a plus become floats.

    Raises NotPlainError.
    """
    header, delimiter = _header(content[:BEGINNING], reading)
    if reading.delimiter == "auto" and len(content) > BEGINNING and QUOTE in content[:BEGINNING]:
        raise NotPlainError("its beginning, which is cut, may not tell the delimiter")
    if b"\0" in content or len(content) > LARGEST:
        raise NotPlainError("it has a NUL byte, or is large")
    if b"\r" in content and content.count(b"\r") != content.count(b"\r\n"):
        raise NotPlainError("it has line ends of old Macintoshes, perhaps beside others")
    if _may_be_hexadecimal(content):
        raise NotPlainError("it may have whole numbers that are hexadecimal to Arrow alone")
    for _ in _well_quoted([content], delimiter):
        pass
    start = content.index(b"\n") + 1
    _check_mark(content[start : start + len(BOM_UTF8)])
    lines = pa.py_buffer(content).slice(start)
    # What is no text is inferred: whole numbers stay whole, as pandas has them.
    texts = {name: pa.string() for name in header if name not in numbers}
    with _particular():
        options = _options(header, delimiter, texts, len(content), quoted=QUOTE in content)
        table = csv.read_csv(pa.BufferReader(lines), **options)
    for name in numbers & set(header):
        _check_number(name, table[name])
    return _frame(table)


def stream(
    chunks: Iterable[bytes], reading: Reading, numbers: Collection[str], size: int
) -> Iterator[pd.DataFrame]:
    """As `delimited.stream`, several parts at once. Raises NotPlainError, perhaps after some parts."""
    source = iter(chunks)
    first = next(source, b"")
    header, delimiter = _header(first, reading)
    table = _Table(header, delimiter, frozenset(numbers), size)
    pieces = _Pieces(itertools.chain([first.partition(b"\n")[2]], source), size)
    with _particular():
        yield from mapped(table.read, pieces)
        yield from table.stream(pieces.left)


@contextmanager
def _particular() -> Iterator[None]:
    """What Arrow says of a file."""
    try:
        yield
    except MemoryError:
        raise
    except (pa.ArrowException, ValueError) as error:
        raise NotPlainError(str(error).splitlines()[0][:200]) from error


@dataclass(frozen=True)
class _Table:
    """How the lines are read."""

    header: list[str]
    delimiter: str
    numbers: frozenset[str]
    size: int

    def read(self, lines: bytes) -> pd.DataFrame:
        """Whole lines without quotes. In one thread: others read what follows."""
        _check_mark(lines)
        return _frame(csv.read_csv(pa.BufferReader(lines), **self._options(len(lines), quoted=False)))

    def stream(self, chunks: Iterator[bytes]) -> Iterator[pd.DataFrame]:
        chunks = _well_quoted(chunks, self.delimiter)
        first = next(chunks, b"")
        while len(first) < len(BOM_UTF8) and (more := next(chunks, b"")):
            first += more
        _check_mark(first)
        # Buffered: else a part is as large as a chunk.
        file = io.BufferedReader(delimited.Bytes(first, chunks))
        if file.peek():
            yield from map(
                _frame, csv.open_csv(pa.PythonFile(file, "r"), **self._options(self.size, quoted=True))
            )

    def _options(self, size: int, *, quoted: bool) -> dict[str, Any]:
        kinds = {name: pa.float64() if name in self.numbers else pa.string() for name in self.header}
        return _options(self.header, self.delimiter, kinds, size, quoted=quoted)


def _options(
    header: list[str], delimiter: str, kinds: dict[str, pa.DataType], size: int, *, quoted: bool
) -> dict[str, Any]:
    """Of Arrow's parser, in one thread."""
    return {
        "read_options": csv.ReadOptions(block_size=size, column_names=header, use_threads=False),
        "parse_options": csv.ParseOptions(delimiter=delimiter, newlines_in_values=quoted),
        "convert_options": csv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=True),
    }


class _Pieces:
    """Whole lines, `size` bytes or more, up to the first quote: from there on texts may have line ends.

    `left`: the chunks from the first line on that is in no piece.
    """

    def __init__(self, chunks: Iterator[bytes], size: int) -> None:
        self.left = chunks
        self._size = size

    def __iter__(self) -> Iterator[bytes]:
        chunks = self.left
        waiting: list[bytes] = []
        length = 0
        for chunk in chunks:
            if QUOTE in chunk:
                self.left = itertools.chain([*waiting, chunk], chunks)
                return
            if b"\0" in chunk:
                raise NotPlainError("it has a NUL byte")
            waiting.append(chunk)
            length += len(chunk)
            end = chunk.rfind(b"\n") + 1 if length >= self._size else 0
            if end:
                yield b"".join((*waiting[:-1], chunk[:end]))
                waiting, length = [chunk[end:]], len(chunk) - end
            elif length > LONGEST * self._size:
                raise NotPlainError("it has no line ends")
        self.left = iter(waiting)


def _check_mark(lines: bytes) -> None:
    """Raises NotPlainError: Arrow takes it away, wherever in the file these lines are."""
    if lines.startswith(BOM_UTF8):
        raise NotPlainError("a line begins with a byte order mark")


def _well_quoted(chunks: Iterable[bytes], delimiter: str) -> Iterator[bytes]:
    """The chunks. Raises NotPlainError where a quote opens within a text, or none closes it.

    To Arrow such a text ends where the file does.
    """
    before, number = ord("\n"), 0
    for chunk in chunks:
        if QUOTE in chunk:
            characters = np.frombuffer(chunk, np.uint8)
            places = np.flatnonzero(characters == ord(QUOTE))
            opening = places[number % 2 :: 2]
            ahead = np.where(opening > 0, characters[opening - 1], before)
            # After a quote it is the second half of one that is part of a quoted text.
            if not np.isin(ahead, [*b'\r\n"', ord(delimiter)]).all():
                raise NotPlainError("it has a quote within a text")
            number += len(places)
        before = chunk[-1] if chunk else before
        yield chunk
    if number % 2:
        raise NotPlainError("a quote is open at its end")


def _may_be_hexadecimal(content: bytes) -> bool:
    """Whether a zero is followed by an x. Python's own search takes five times the time among many zeros."""
    characters = np.frombuffer(content, np.uint8)
    places = np.flatnonzero((characters | 0x20) == ord("x"))
    return bool((characters[places[places > 0] - 1] == ord("0")).any())


def _check_number(name: str, column: pa.ChunkedArray) -> None:
    """Raises NotPlainError where pandas would make something else of what Arrow has inferred."""
    whole = pa.types.is_int64(column.type)
    if not whole and not pa.types.is_float64(column.type):
        raise NotPlainError(f"column {name} has other than numbers, or nothing at all")
    if whole and not column.null_count:
        return
    extremes = compute.min_max(column).as_py()
    if max(-(extremes["min"] or 0), extremes["max"] or 0) >= EXACT:
        raise NotPlainError(f"column {name} has numbers that floats do not tell apart")


def _frame(batch: pa.Table | pa.RecordBatch) -> pd.DataFrame:
    """Raises NotPlainError: Arrow takes -NaN for a number; gaps that are empty are none of its NaN."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_floating(column.type) and compute.any(compute.is_nan(column)).as_py():
            raise NotPlainError(f"column {name} has a gap that is written out")
    frame: pd.DataFrame = batch.to_pandas(use_threads=False, split_blocks=True)
    return frame


def _header(beginning: bytes, reading: Reading) -> tuple[list[str], str]:
    """Names and delimiter, where one line without quotes holds them."""
    line, end, _ = beginning.partition(b"\n")
    if not end or reading.encoding != "utf-8" or reading.decimal != "." or reading.thousands:
        raise NotPlainError("its numbers or letters are written in another way")
    try:
        header, delimiter = delimited.header(beginning, reading)
        names = line.removesuffix(b"\r").decode().split(delimiter)
    except (RejectedError, UnicodeDecodeError) as error:
        raise NotPlainError(str(error)) from error
    if names != header or len(header) < 2 or b"\r" in line.removesuffix(b"\r"):
        raise NotPlainError("its header is quoted, or begins after the first line")
    return header, delimiter
