"""Room for what is read part by part."""

import shutil
from pathlib import Path

from dropflow.errors import TransientError


def check_room(folder: Path, needed: float) -> None:
    """Raises TransientError where the folder's disk has fewer bytes free than that."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TransientError(
            f"needs {needed / 2**30:.1f} GiB of disk below {folder}, where {free / 2**30:.1f} are free: "
            "make room, or set TMPDIR"
        )
