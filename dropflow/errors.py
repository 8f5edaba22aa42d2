"""Every error Dropflow raises on purpose. Transient ones may be tried again; permanent ones never."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DropflowError(Exception):
    """Base of all errors with a message meant for the user."""


class TransientError(DropflowError):
    """May pass by itself: network, timeout, an overloaded or restarting server."""


class PermanentError(DropflowError):
    """Stays until a person changes something."""


class AccessError(PermanentError):
    """A server is there, and we do not get in: no fault of the object that is being worked on."""


class UntrustedError(AccessError):
    """A server's certificate is not accepted."""


class SettingsError(PermanentError):
    """A setting is missing or wrong."""


class DatasetError(PermanentError):
    """A dataset file is wrong."""


class AutomationError(PermanentError):
    """An automation file is wrong."""


class RejectedError(PermanentError):
    """An object's content cannot be prepared: the reason tells its owner what to mend."""


class SupersededError(PermanentError):
    """The object was overwritten meanwhile: its successor gets a run of its own."""


class ObjectMissingError(PermanentError):
    """The object is not in the bucket (any more)."""


class AlreadyExistsError(PermanentError):
    """A conditional PUT lost: another writer created the object first."""


class ReceiptError(PermanentError):
    """A stored receipt cannot be read."""


class NotificationFormatError(PermanentError):
    """A notification body or line is not what any supported store sends."""


class LedgerError(PermanentError):
    """The ledger cannot be opened, or is not where it was."""


class BackupError(PermanentError):
    """A backup cannot be written, read, or brought back here."""


class EventRefusedError(PermanentError):
    """Prefect does not take this very event; others may be fine."""


class UnforeseenError(PermanentError):
    """Something that nobody foresaw went wrong about one thing: the others go on."""


_ROOM = "make room on its disk, or choose another place"
_RIGHTS = "let the user who runs this read and write it, or choose another place"
_PATH = "check the path"
_TO_DO = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.ENOENT: _PATH,
    errno.ENOTDIR: _PATH,
    errno.EISDIR: _PATH,
    errno.EEXIST: _PATH,
    errno.EADDRINUSE: "stop what listens there, or choose another port",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def explained(error: OSError) -> str:
    """What the system refused, of which file, and what to do about it: one line."""
    parts = [os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""]
    parts.append(error.strerror or str(error) or type(error).__name__)
    parts.append(_TO_DO.get(error.errno or 0, ""))
    return ": ".join(part for part in parts if part)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file of an OSError that names none, as those of writing do, unlike those of opening."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
