"""Logging for the long-running commands, and what no log may hold."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from dropflow.objects import ObjectRef

RECORD = "%(asctime)s %(levelname)s %(name)s: %(message)s"
NAMES = {"asctime": "time", "levelname": "level", "name": "logger"}


def log_to_stderr(level: int | str = logging.INFO, *, as_json: bool = False, anew: bool = False) -> None:
    """One line a record, with time, level and module; noisy libraries kept to warnings.

    `anew`: instead of what a library has set up.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(json_formatter() if as_json else logging.Formatter(RECORD))
    logging.basicConfig(level=level, handlers=[handler], force=anew)
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


_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Every record that is made inside, by whichever library, has these fields in JSON."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def of(*refs: ObjectRef, **fields: str) -> dict[str, Any]:
    """The fields of a record about objects of one bucket, to be given as its `extra`."""
    keys = {"key": refs[0].key} if len(refs) == 1 else {"keys": [ref.key for ref in refs]}
    return {"bucket": refs[0].bucket, **keys, **{name: value for name, value in fields.items() if value}}


def json_formatter() -> logging.Formatter:
    """One JSON object a record, with the fields of `about` and `of`."""
    return _JsonFormatter(RECORD, rename_fields=NAMES, json_ensure_ascii=False)


class _JsonFormatter(JsonFormatter):
    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        super().add_fields(log_data, record, message_dict)
        for name, value in _about.get().items():
            log_data.setdefault(name, value)


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
