"""What the Prefect UI shows of a run besides its states: artifacts."""

import hashlib
import logging
from collections.abc import Callable
from typing import Any

import httpx
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from dropflow.objects import printable
from dropflow.quality import Quality
from dropflow.report import to_markdown

log = logging.getLogger(__name__)


def harmlessly(show: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What is only shown must never decide: without it the UI alone misses something."""
    try:
        return show(*arguments, **named)
    except (httpx.HTTPError, PrefectException) as error:
        log.warning("not shown in the UI: %r", error)
        return None


def show_quality(quality: Quality) -> None:
    """The quality report, under one key for all versions of an object."""
    digest = hashlib.sha256(quality.url.encode()).hexdigest()[:12]
    key = f"quality-{quality.dataset}-{digest}".replace("_", "-")
    text = to_markdown(quality)
    harmlessly(create_markdown_artifact, text, key=key, description=printable(quality.url, 200))


def show_progress(dataset: str, total: int) -> Callable[[int], None]:
    """A progress bar in the UI; call what is returned with the number of objects done."""
    key = f"progress-{dataset}".replace("_", "-")
    told = f"0 of {total:,} objects"
    made = harmlessly(create_progress_artifact, progress=0.0, key=key, description=told)

    def show(done: int) -> None:
        told = f"{done:,} of {total:,} objects"
        if made:
            harmlessly(update_progress_artifact, made, progress=100 * done / total, description=told)

    return show
