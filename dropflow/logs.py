"""Logging for the long-running commands."""

import logging
import sys


def log_to_stderr(level: int = logging.INFO) -> None:
    """One line a record, with time, level and module; noisy libraries kept to warnings."""
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
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
