"""The audit log: who had what done and when, one JSON object a line, in the data directory and in the log."""

import getpass
import json
import logging
import os
import socket
from datetime import UTC, datetime
from typing import Any

from dropflow.settings import Settings

FILE = "audit.log"
MOST_NAMED = 20
"""Objects of one act; how many there were is told besides."""
log = logging.getLogger("dropflow.audit")


def record(settings: Settings, what: str, *, who: str = "", **details: Any) -> None:
    """Note an act that has been done; `who` is by default the user of this process, and its machine.

    An act is not undone because its line cannot be written: that is logged as a warning.
    """
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    # Escaped to ASCII: a key or parameter can neither end the line nor write to a terminal.
    line = json.dumps({"time": at, "who": who or _user(), "what": what, **details}, default=str)
    log.info("%s", line)
    try:
        _append(settings, line)
    except OSError as error:
        log.warning("%s in %s cannot be written: %s", FILE, settings.data_dir, error.strerror)


def objects(urls: list[str]) -> dict[str, Any]:
    """The details of an act on many objects."""
    return {"number": len(urls), "objects": urls[:MOST_NAMED]}


def _append(settings: Settings, line: str) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with open(os.open(settings.data_dir / FILE, flags, 0o600), "a", encoding="ascii") as file:
        file.write(f"{line}\n")


def _user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        # A container's user need not have a name.
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
