"""A prepared frame as bytes: Parquet, CSV or Arrow."""

import io
import re
from collections.abc import Collection
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import feather, parquet

from dropflow.datasets import Output
from dropflow.errors import RejectedError

CONTENT_TYPES = {
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.file",
}
PARQUET: dict[str, Any] = {"dictionary_pagesize_limit": 2**16}
"""A column of many values is written plain sooner than by default: a third less time, and smaller files."""
FORMULA = re.compile(r"(?:\A|(?<=[\r\n]))(?=[\s\0-\x1f]*[=+\-@＝＋－＠])|\A(?=[\t\r\n])")
"""Where a spreadsheet may begin a formula: also after blanks, in a later line, and by a full-width sign."""


def encode(frame: pd.DataFrame, output: Output, various: Collection[str] = ()) -> bytes:
    """Rows without their index. Sparse columns become plain ones, which Parquet keeps small.

    `various`: columns of so many values that a dictionary of them, which Parquet tries first, is of no use.
    Raises RejectedError where a column holds what the format cannot.
    """
    frame = frame.reset_index(drop=True)
    # Whatever the steps had them as: Parquet keeps what kind pandas is to make of them.
    frame.columns = frame.columns.infer_objects()
    plain = {n: dtype.subtype for n, dtype in frame.dtypes.items() if isinstance(dtype, pd.SparseDtype)}
    if plain:
        frame = frame.astype(plain)
    buffer = io.BytesIO()
    try:
        if output.format == "parquet":
            # Not `to_parquet`, which starts two threads for each frame: as long as the conversion takes.
            table = pa.Table.from_pandas(frame, preserve_index=False, nthreads=1)
            # What is nested has other names there.
            all_repeat = not various or any(pa.types.is_nested(field.type) for field in table.schema)
            repeating = all_repeat or [name for name in table.column_names if name not in various]
            parquet.write_table(table, buffer, use_dictionary=repeating, **PARQUET)
        elif output.format == "arrow":
            feather.write_feather(frame, buffer, compression="zstd")
        else:
            buffer.write(_to_csv(frame))
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise RejectedError(
            f"cannot be written as {output.format}: {str(error).splitlines()[0][:200]}"
        ) from error
    return buffer.getvalue()


def to_readable_csv(frame: pd.DataFrame, *, header: bool = True) -> bytes:
    """For people, who open it in a spreadsheet: what would run as a formula gets a ' in front."""
    safe = {str(name): frame[name].map(_harmless, na_action="ignore") for name in _texts(frame)}
    return _to_csv(frame.assign(**safe).rename(columns=_harmless), header=header)


def _to_csv(frame: pd.DataFrame, *, header: bool = True) -> bytes:
    # The csv module quotes the characters of the line end it writes only: a lone CR would end a row.
    returns = any(frame[name].astype(str).str.contains("\r", regex=False).any() for name in _texts(frame))
    returns |= any("\r" in str(name) for name in frame.columns)
    return frame.to_csv(index=False, header=header, lineterminator="\r\n" if returns else "\n").encode()


def _texts(frame: pd.DataFrame) -> list[str]:
    return [str(name) for name, dtype in frame.dtypes.items() if dtype.kind not in "fiubM"]


def _harmless(value: object) -> str:
    return FORMULA.sub("'", str(value))
