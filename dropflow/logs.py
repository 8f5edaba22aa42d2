"""Logging for the long-running commands."""

import logging
import sys

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
