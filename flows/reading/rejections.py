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


def said(error: BaseException) -> str:
    """The first line of what a library says of an error, or the error's name."""
    return printable((str(error).strip().splitlines() or [""])[0], 150) or type(error).__name__
