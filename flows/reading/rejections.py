"""What several formats are rejected with."""

import pyarrow as pa

from dropflow.errors import RejectedError
from dropflow.formats import Reading
from dropflow.objects import printable

ARROW_ERRORS = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError, RuntimeError)


def too_large(reading: Reading) -> RejectedError:
    return RejectedError(
        f"has more than {reading.max_bytes:,} bytes once decompressed: split it, "
        "or raise max_bytes (under read:) in the dataset's file"
    )


def too_much_text(reading: Reading, where: str, size: int) -> RejectedError:
    """`where`: whose cells hold so many bytes; a file can say in a few that one text stands in many cells."""
    return RejectedError(
        f"{where} holds {size:,} bytes, as a text counts in every cell that it stands in: more than the "
        f"{reading.max_bytes:,} that may be read; split it, or raise max_bytes (under read:) in the "
        "dataset's file"
    )


def bytes_of(text: str) -> int:
    """What it takes in UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def said(error: BaseException) -> str:
    """The first line of what a library says of an error, or the error's name."""
    return printable((str(error).strip().splitlines() or [""])[0], 150) or type(error).__name__
