"""Files and folders of the embedded stack, which only their owner may read."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO

from dropflow.errors import naming

UMASK = 0o077
"""Of all that is started: what a program makes is closed to other users, whatever it asks for."""


MADE_HERE = ("audit.log", "ledger.sqlite*", "logs", "minio*", "prefect", "seaweedfs*", "stack.env", "up.lock")
"""What there is of ours in a data folder, which may be one that holds other things, too."""


def make_private(folder: Path) -> None:
    """Make a folder of our own, closed to other users."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _close(folder)


def close_to_others(data_dir: Path) -> None:
    """Close what an earlier version has left open. What others have put there is left as it is."""
    for pattern in MADE_HERE:
        for path in data_dir.glob(pattern):
            # What somebody else runs may come and go meanwhile.
            with suppress(FileNotFoundError):
                _close(path)


def _close(path: Path) -> None:
    found = path.lstat()
    if found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode):
        path.chmod(stat.S_IMODE(found.st_mode) & ~UMASK)


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
