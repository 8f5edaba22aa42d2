"""Parquet to a DataFrame."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dropflow.errors import RejectedError
from dropflow.formats import Reading
from dropflow.objects import printable
from flows.reading.columns import EXACT, NO_NUMBER, check_names
from flows.reading.disk import check_room
from flows.reading.rejections import ARROW_ERRORS, said, too_large, too_much_text
from flows.reading.signatures import PARQUET, PARQUET_ENCRYPTED

BUFFER = 2**20
"""Bytes of a column that are read at once."""
REPEATING = 8
"""Bytes a value, below which a column of texts is read as codes."""
FIRST = 1_000
"""Rows of a row group that are looked at first."""
MOST_GROWTH = 4
"""Times the size of a piece that its texts may take."""
MOST_AT_ONCE = 2**28
"""Bytes of a column that is not read as codes, were all its rows the longest text of its dictionary."""


def read(content: bytes, reading: Reading, numbers: Collection[str]) -> pd.DataFrame:
    if content.startswith(PARQUET_ENCRYPTED):
        raise RejectedError("is an encrypted Parquet file: write it without encryption")
    if not content.startswith(PARQUET):
        raise RejectedError("is no Parquet file: it does not begin with PAR1; say which format it has")
    with _errors():
        table = _table(content, reading)
        frame = _frame(table)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count and pa.types.is_integer(column.type):
            frame[name] = _whole(column, frame[name])
    return _numbers_or_text(frame, numbers)


def stream(
    chunks: Iterable[bytes], reading: Reading, numbers: Collection[str], size: int
) -> Iterator[pd.DataFrame]:
    """The table, some `size` bytes of its rows at a time: what `read` gives, in pieces.

    The file is on disk meanwhile, as what it holds is told at its end. Raises RejectedError.
    """
    with NamedTemporaryFile(prefix="dropflow-") as source:
        for chunk in chunks:
            source.write(chunk)
        source.flush()
        with _errors():
            file = _opened(source.name)
            _check(file, reading)
            _look_at_columns(file)
            whole = {name: _kind_of_whole(file, name) for name in _whole_columns(file.schema_arrow)}
            stored = _stored_bytes_of_a_row(file)
            most = int(size // stored) + 1
            long = _long_texts(_opened(source.name, read_dictionary=_dictionaries(file)), most)
            coded = _opened(source.name, read_dictionary=[*_repeating(file), *long])
            row = max(stored, _bytes_of_first_rows(coded, min(FIRST, most)))
        # More is never read.
        check_room(Path(source.name).parent, min(row * file.metadata.num_rows, reading.max_bytes))
        pieces = _pieces(coded, reading, size, row)
        while True:
            with _errors():
                table = next(pieces, None)
                if table is None:
                    return
                frame = _frame(table)
            for name, kind in whole.items():
                if kind and frame[name].dtype != kind:
                    exact = kind != "float64"
                    values = table[name].to_pylist() if exact else frame[name]
                    frame[name] = pd.Series(values, dtype=kind, index=frame.index)
            yield _numbers_or_text(frame, numbers)


@contextmanager
def _errors() -> Iterator[None]:
    """What pyarrow says of a file, as our own."""
    try:
        yield
    except MemoryError:
        raise
    except ARROW_ERRORS as error:
        if re.search("crypt", str(error), re.IGNORECASE):
            raise RejectedError("is an encrypted Parquet file: write it without encryption") from error
        raise RejectedError(f"is no readable Parquet file: {said(error)}") from error


def _frame(table: Any) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(
        ignore_metadata=True, date_as_object=False, timestamp_as_object=False, use_threads=False
    )
    return frame


def _stored_bytes_of_a_row(file: Any) -> float:
    metadata = file.metadata
    stored = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    return float(max(stored / metadata.num_rows, sum(_width(field.type) for field in file.schema_arrow), 1))


def _bytes_of_first_rows(file: Any, rows: int) -> float:
    """Of each of the first rows of a row group, whose texts may repeat, once they are read."""
    most: float = 0
    for number in range(file.metadata.num_row_groups):
        first = next(file.iter_batches(batch_size=rows, row_groups=[number], use_threads=False), None)
        if first is not None and first.num_rows:
            table = pa.Table.from_batches([first])
            most = max(most, sum(_plain_bytes(column) for column in table.columns) / first.num_rows)
    return most


def _pieces(file: Any, reading: Reading, size: int, row: float) -> Iterator[Any]:
    """Tables of plain columns, some `size` bytes each, or one row. Raises RejectedError."""
    taken: Counter[str] = Counter()
    for batch in file.iter_batches(batch_size=max(1, int(size // row)), use_threads=False):
        table = pa.Table.from_batches([batch])
        table.validate(full=True)
        # Codes hide how long the texts are that stand in every row.
        sizes = _plain_sizes(table)
        taken.update(sizes)
        _check_sizes(taken, reading)
        parts = sum(sizes.values()) // (MOST_GROWTH * size) + 1
        rows = -(-table.num_rows // parts)
        for first in range(0, table.num_rows, max(rows, 1)):
            yield _made_plain(table.slice(first, rows), reading)


def _opened(path: str, **options: Any) -> Any:
    """A file of which no more is in memory than is being read."""
    return pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False, **options)


def _repeating(file: Any) -> list[str]:
    """Texts that take next to nothing in the file: the same ones again and again, however long."""
    metadata = file.metadata
    names = []
    for place, name in enumerate(file.schema_arrow.names):
        chunks = [metadata.row_group(number).column(place) for number in range(metadata.num_row_groups)]
        stored = sum(chunk.total_uncompressed_size for chunk in chunks)
        if str(metadata.schema.column(place).physical_type) == "BYTE_ARRAY" and (
            stored < REPEATING * metadata.num_rows
        ):
            names.append(name)
    return names


def _dictionaries(file: Any) -> list[str]:
    """Texts that may be read as codes, and of which one may stand in many rows.

    A column whose texts are stored as what differs from the one before cannot be read as codes.
    """
    metadata = file.metadata
    names = []
    for place, name in enumerate(file.schema_arrow.names):
        chunks = [metadata.row_group(number).column(place) for number in range(metadata.num_row_groups)]
        if str(metadata.schema.column(place).physical_type) == "BYTE_ARRAY" and any(
            chunk.has_dictionary_page for chunk in chunks
        ):
            delta = any("DELTA_BYTE_ARRAY" in chunk.encodings for chunk in chunks)
            names += [] if delta else [name]
    return names


def _long_texts(file: Any, rows: int) -> list[str]:
    """Columns with a text in a dictionary of which so many rows would take too much at once.

    With its first row comes a row group's whole dictionary.
    """
    long: set[str] = set()
    for number in range(file.metadata.num_row_groups):
        first = next(file.iter_batches(batch_size=1, row_groups=[number], use_threads=False), None)
        for name, column in zip(first.schema.names, first.columns, strict=True) if first else ():
            if pa.types.is_dictionary(column.type) and _has_lengths(column.type.value_type):
                longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
                if longest * rows > MOST_AT_ONCE:
                    long.add(name)
    return sorted(long)


def _whole_columns(schema: Any) -> list[str]:
    return [field.name for field in schema if pa.types.is_integer(_storage(field.type))]


def _kind_of_whole(file: Any, name: str) -> str:
    """As `_whole` decides of all rows: what a column of whole numbers with gaps becomes; "" without gaps."""
    gaps, kind = 0, _storage(file.schema_arrow.field(name).type)
    lowest, highest = 0, 0
    for batch in file.iter_batches(columns=[name], use_threads=False):
        column = batch.column(0).cast(kind)
        gaps += column.null_count
        bounds = pc.min_max(column).as_py()
        if bounds["min"] is not None:
            lowest, highest = min(lowest, bounds["min"]), max(highest, bounds["max"])
    if not gaps:
        return ""
    if -EXACT <= lowest <= highest <= EXACT:
        return "float64"
    return "UInt64" if pa.types.is_unsigned_integer(kind) else "Int64"


def _table(content: bytes, reading: Reading) -> Any:
    """The whole file as a pyarrow table of plain columns. Raises RejectedError, or pyarrow's errors."""
    file = pq.ParquetFile(pa.BufferReader(content))
    _check(file, reading)
    coded: list[str] = []
    if _any_may_expand(file.metadata, reading):
        _look_at_columns(file)
        # Kept as codes while reading, a text that stands in every row takes its place once.
        coded = [
            name
            for place, name in enumerate(file.schema_arrow.names)
            if _may_expand(file.metadata, place, reading)
        ]
    table = pq.ParquetFile(pa.BufferReader(content), read_dictionary=coded).read(use_threads=False)
    _check_sizes(_plain_sizes(table), reading)
    table.validate(full=True)
    return _made_plain(table, reading)


def _made_plain(table: Any, reading: Reading) -> Any:
    for place, field in enumerate(table.schema):
        table = table.set_column(place, field.name, _plain(table.column(place)))
    if table.nbytes > reading.max_bytes:
        raise too_large(reading)
    # Text in Parquet need not be UTF-8; nobody has looked so far.
    table.validate(full=True)
    return table


def _check(file: Any, reading: Reading) -> None:
    """Raises RejectedError where the columns are not plain, or too large."""
    schema = file.schema_arrow
    check_names(schema.names)
    for field in schema:
        if pa.types.is_nested(_storage(field.type)):
            raise RejectedError(
                f"column {printable(field.name, 40)} is nested ({printable(str(field.type), 60)}): "
                "flatten it into plain columns"
            )
    _check_metadata(file.metadata, schema, reading)


def _check_metadata(metadata: Any, schema: Any, reading: Reading) -> None:
    sizes = [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]
    # Runs of the same value take next to nothing in a file, and their place in a table.
    places = metadata.num_rows * sum(_width(field.type) for field in schema)
    if max(sum(sizes), places) > reading.max_bytes or min(sizes, default=0) < 0:
        raise too_large(reading)
    if not metadata.num_rows:
        raise RejectedError("has columns but no rows: nothing to prepare")


def _any_may_expand(metadata: Any, reading: Reading) -> bool:
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    most = sum(group.num_rows * group.total_byte_size for group in groups)
    return most > reading.max_bytes or any(group.num_rows < 0 for group in groups)


def _look_at_columns(file: Any) -> None:
    """Raises OSError where what is told of a column is damaged.

    pyarrow 26 ends the process with `terminate` when it is asked for such a column's metadata, while its
    reader raises: so one row of each group is read before.
    """
    for number in range(file.metadata.num_row_groups):
        next(file.iter_batches(batch_size=1, row_groups=[number], use_threads=False), None)


def _may_expand(metadata: Any, place: int, reading: Reading) -> bool:
    """Whether a column may be too large once each of its rows has a text of its own.

    Reading it as codes takes ten times as long where most texts differ, so small files are spared that.
    """
    chunks = [metadata.row_group(number).column(place) for number in range(metadata.num_row_groups)]
    # No text is longer than its chunk.
    most = sum(chunk.num_values * chunk.total_uncompressed_size for chunk in chunks)
    return most > reading.max_bytes and str(metadata.schema.column(place).physical_type) == "BYTE_ARRAY"


def _width(kind: Any) -> float:
    """Bytes that a value takes in a table; of text, its offset alone."""
    try:
        return float(_storage(kind).bit_width) / 8
    except ValueError:
        return 4


def _storage(kind: Any) -> Any:
    while isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind):
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind.storage_type
    return kind


def _plain_sizes(table: Any) -> dict[str, int]:
    columns = zip(table.column_names, table.columns, strict=True)
    return {name: _plain_bytes(column) for name, column in columns}


def _check_sizes(sizes: Mapping[str, int], reading: Reading) -> None:
    """Raises RejectedError where the columns take too much without codes."""
    total = sum(sizes.values())
    if total > reading.max_bytes:
        longest = printable(max(sizes, key=sizes.__getitem__), 40)
        raise too_much_text(reading, f"its table, mostly column {longest},", total)


def _plain_bytes(column: Any) -> int:
    """What the column takes without codes, in bytes."""
    size = 0
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type) and _has_lengths(chunk.type.value_type):
            lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
            # The dictionary, which comes with each piece, is not part of what it takes.
            size += chunk.indices.nbytes + (pc.sum(lengths.take(chunk.indices)).as_py() or 0)
        else:
            size += chunk.nbytes
    return size


def _has_lengths(kind: Any) -> bool:
    return any(
        test(kind)
        for test in (
            *(pa.types.is_string, pa.types.is_large_string),
            *(pa.types.is_binary, pa.types.is_large_binary),
        )
    )


def _plain(column: Any) -> Any:
    """The column without codes and extensions; decimals as floats, bytes that are text as text."""
    kind = _storage(column.type)
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        # Codes of 32 bits hold more text than offsets of 32 bits reach.
        wide = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}.get(kind, kind)
        column = column.cast(wide)
        kind = wide
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        try:
            return column.cast(pa.large_string())
        except pa.ArrowInvalid:
            return column
    return column


def _whole(column: Any, series: pd.Series) -> pd.Series:
    """Whole numbers with gaps: floats as pandas has it, unless one of them would be rounded."""
    bounds = pc.min_max(column).as_py()
    if bounds["min"] is None or -EXACT <= bounds["min"] <= bounds["max"] <= EXACT:
        return series
    kind = "UInt64" if pa.types.is_unsigned_integer(column.type) else "Int64"
    return pd.Series(column.to_pylist(), dtype=kind, index=series.index)


def _numbers_or_text(frame: pd.DataFrame, numbers: Collection[str]) -> pd.DataFrame:
    """Columns of `numbers` hold numbers or text: to pandas a date would be a number as well."""
    for name in frame.columns.intersection(list(numbers), sort=False):
        series = frame[name]
        if pd.api.types.is_bool_dtype(series) or pd.api.types.is_numeric_dtype(series):
            continue
        texts = series.astype(object).where(series.notna(), None)
        values = [None if value is None else str(value) for value in texts]
        frame[name] = pd.Series([None if v in NO_NUMBER else v for v in values], dtype=str, index=frame.index)
    return frame
