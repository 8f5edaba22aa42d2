"""What the Prefect UI shows of a run besides its states: artifacts."""

import hashlib

from prefect.artifacts import create_markdown_artifact

from dropflow.objects import printable
from flows.quality import Quality
from flows.report import to_markdown


def show_quality(quality: Quality, report_url: str) -> None:
    """The quality report, under one key for all versions of an object."""
    digest = hashlib.sha256(quality.url.encode()).hexdigest()[:12]
    key = f"quality-{quality.dataset}-{digest}".replace("_", "-")
    text = to_markdown(quality, report_url)
    create_markdown_artifact(text, key=key, description=printable(quality.url, 200))
