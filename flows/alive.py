"""A file that a worker touches while it lives: how old it is says enough, and asks for no port."""

import asyncio
import logging
from pathlib import Path

log = logging.getLogger(__name__)

NAME = "worker.alive"
"""In the data directory. docker-compose.yaml and kubernetes/ look at its age."""
TOUCH_SECONDS = 10.0


async def touch_for_ever(file: Path, seconds: float = TOUCH_SECONDS) -> None:
    """Whether or not Prefect answers: starting the worker again would not bring it back, and end its runs."""
    while True:
        try:
            file.touch()
        except OSError as error:
            log.warning("%s cannot be touched, so that the worker is taken for dead: %s", file, error)
        await asyncio.sleep(seconds)
