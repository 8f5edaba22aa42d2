"""Files and folders of the embedded stack, which only their owner may read."""

import os
import stat
from pathlib import Path
from typing import IO

from dropflow.errors import naming

UMASK = 0o077
"""Of all that is started: what a program makes is closed to other users, whatever it asks for."""


def make_private(folder: Path) -> None:
    """Make the folder, closed to other users, and close what an earlier version has left open in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (folder, *(path for path in folder.iterdir() if not path.is_symlink())):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~UMASK)


def open_private(path: Path) -> IO[str]:
    """Open a file for writing that is made for its owner alone."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w")


def write_private(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, that nobody else can have read in between."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with naming(path), open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)
