"""What the Prefect UI shows of a run besides its states: artifacts."""

import hashlib
import logging
from collections.abc import Callable
from typing import Any, Literal

import httpx
from prefect import get_client, runtime
from prefect.artifacts import create_markdown_artifact
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
    """A progress bar in the UI; call what is returned with the number of objects done.

    Not by `create_progress_artifact`, which posts an event of each as well: for that a run opens a websocket,
    and asks for its flow, deployment, queue and pool.
    """
    key = f"progress-{dataset}".replace("_", "-")
    own = {"key": key, "type": "progress", "flow_run_id": str(runtime.flow_run.id)}
    made = harmlessly(_send, "POST", "/artifacts/", own | _progress(0, total))
    path = f"/artifacts/{made.json()['id']}" if made else ""

    def show(done: int) -> None:
        if path:
            harmlessly(_send, "PATCH", path, _progress(done, total))

    return show


def _progress(done: int, total: int) -> dict[str, Any]:
    return {"data": 100 * done / total, "description": f"{done:,} of {total:,} objects"}


def _send(method: Literal["POST", "PATCH"], path: Any, body: dict[str, Any]) -> httpx.Response:
    # Any path: Prefect's type for it lists those that it knows itself.
    with get_client(sync_client=True) as client:
        return client.request(method, path, json=body)
