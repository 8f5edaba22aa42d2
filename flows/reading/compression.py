"""Gzip, zstd and ZIP, taken off within the memory that `max_bytes` grants."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa

from dropflow.errors import RejectedError
from dropflow.formats import Reading
from dropflow.objects import printable
from flows.reading.rejections import ARROW_ERRORS, said, too_large
from flows.reading.signatures import EMPTY_ZIP, GZIP, ZIP, ZSTD

CONTENT_TYPES = "[Content_Types].xml"

ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RuntimeError,  # also NotImplementedError
)

_CHUNK = 2**20
_HELD_WHILE_COUNTING = 64 * 2**20
_USUAL_RATIO = 20


def expand(content: bytes, reading: Reading) -> tuple[bytes, str]:
    """The decompressed bytes, and the name of the file within a ZIP archive ("" without one)."""
    if len(content) > reading.max_bytes:
        raise too_large(reading)
    member = ""
    if content.startswith(GZIP):
        expanded = _stream(content, "gzip", reading)
    elif content.startswith(ZSTD):
        expanded = _stream(content, "zstd", reading)
    elif content.startswith((ZIP, EMPTY_ZIP)) and not _is_workbook(content):
        expanded, member = _member(content, reading)
    else:
        return content, member
    if not expanded:
        raise RejectedError("is empty (0 bytes) once decompressed: send it again")
    if expanded.startswith((GZIP, ZSTD, EMPTY_ZIP)) or (
        expanded.startswith(ZIP) and not _is_workbook(expanded)
    ):
        raise RejectedError("is compressed twice: compress the table once")
    return expanded, member


def _stream(content: bytes, codec: str, reading: Reading) -> bytes:
    def opened() -> AbstractContextManager[Any]:
        stream: AbstractContextManager[Any] = pa.CompressedInputStream(pa.BufferReader(content), codec)
        return stream

    try:
        return _inflated(opened, len(content), reading)
    except MemoryError:
        raise  # of pyarrow's errors, the one that says nothing of the file
    except ARROW_ERRORS as error:
        raise RejectedError(
            f"is a damaged {codec} file ({said(error)}): the upload may have been cut off; send it again"
        ) from error


def _inflated(opened: Callable[[], AbstractContextManager[Any]], size: int, reading: Reading) -> bytes:
    """All that the stream gives, which `opened` opens anew; `size` is what it has compressed.

    What expands as no table does is first counted without being kept: a bomb costs time, not memory.
    """
    most_held = max(_HELD_WHILE_COUNTING, _USUAL_RATIO * size)
    held: io.BytesIO | None = io.BytesIO()
    total = 0
    with opened() as stream:
        for chunk in chunks(stream):
            if not total and not chunk.strip(b"\0"):
                raise RejectedError("is binary, not a table: it begins with NUL bytes once decompressed")
            total += len(chunk)
            if total > reading.max_bytes:
                raise too_large(reading)
            if total > most_held:
                held = None
            if held is not None:
                held.write(chunk)
    if held is None:
        held = io.BytesIO()
        with opened() as stream:
            for chunk in chunks(stream):
                held.write(chunk)
    return held.getvalue()


def chunks(stream: Any) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def archive_of(content: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(content))
    except ZIP_ERRORS as error:
        raise RejectedError(
            f"is a damaged ZIP archive or workbook ({said(error)}): "
            "the upload may have been cut off; send it again"
        ) from error


def _is_workbook(content: bytes) -> bool:
    with archive_of(content) as archive:
        return CONTENT_TYPES in archive.NameToInfo


def _member(content: bytes, reading: Reading) -> tuple[bytes, str]:
    """The one file in a ZIP archive, and its name. Raises RejectedError when there are more, or none."""
    with archive_of(content) as archive:
        # Finder adds __MACOSX/ to whatever it compresses.
        infos = [i for i in archive.infolist() if not (i.is_dir() or i.filename.startswith("__MACOSX/"))]
        if len(infos) != 1:
            some = ", ".join(printable(info.filename, 40) for info in infos[:3])
            raise RejectedError(
                f"is a ZIP archive of {len(infos):,} files{' (' + some + ')' if some else ''}: "
                "it must hold exactly one"
            )
        (info,) = infos
        check_member(info)
        try:
            return _inflated(lambda: archive.open(info), info.compress_size, reading), info.filename
        except ZIP_ERRORS as error:
            raise RejectedError(
                f"is a damaged ZIP archive ({said(error)}): the upload may have been cut off; send it again"
            ) from error


def check_member(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 0x1:
        raise RejectedError("is a ZIP archive with a password: send it without one")
    # zipfile bounds what the others give at once for deflate only.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise RejectedError(
            "is a ZIP archive compressed in an unusual way: use deflate, which is the default"
        )
