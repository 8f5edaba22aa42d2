"""Logging for the long-running commands, and what no log may hold."""

import logging
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pythonjsonlogger.json import JsonFormatter

RECORD = "%(asctime)s %(levelname)s %(name)s: %(message)s"
NAMES = {"asctime": "time", "levelname": "level", "name": "logger"}


def log_to_stderr(level: int | str = logging.INFO, *, as_json: bool = False) -> None:
    """One line a record, with time, level and module; noisy libraries kept to warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(RECORD, rename_fields=NAMES, json_ensure_ascii=False)
        if as_json
        else logging.Formatter(RECORD)
    )
    logging.basicConfig(level=level, handlers=[handler])
    for name in (
        "mail.log",
        "alembic",
        "httpx",
        "httpcore",
        "botocore",
        "boto3",
        "urllib3",
        "uvicorn.access",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)


SHORTEST = 8
"""Characters of a secret that is hidden: shorter ones are parts of other words."""
_hidden: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """No log record of this process holds one of these from now on, whichever library makes it.

    Libraries tell more at DEBUG than is good: botocore whole headers, others the addresses they call.
    """
    new = {secret for secret in secrets if len(secret) >= SHORTEST} - _hidden
    if new and not _hidden:
        logging.setLogRecordFactory(partial(_made, logging.getLogRecordFactory()))
    _hidden.update(new)


def _made(make: Callable[..., logging.LogRecord], *given: Any, **named: Any) -> logging.LogRecord:
    record = make(*given, **named)
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong format is reported by the handler
        return record
    if (clean := _clean(text)) != text:
        record.msg, record.args = clean, ()
    if record.exc_info and record.exc_info[0]:
        trace = logging.Formatter().formatException(record.exc_info)
        if (clean := _clean(trace)) != trace:
            record.exc_info, record.exc_text = None, clean
    return record


def _clean(text: str) -> str:
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
