"""Prefect's own settings, derived from ours."""

import os
from contextlib import suppress
from pathlib import Path

from dropflow.settings import Settings

NOBODY = Path(__file__).with_name("nobody.pem")
"""A certificate whose key was never kept: who trusts it trusts nobody."""


def prefect_environment(settings: Settings) -> dict[str, str]:
    """The variables for every process that imports Prefect: server, worker, apply."""
    auth = settings.prefect_auth
    return {
        "PREFECT_HOME": str(settings.data_dir / "prefect"),
        "PREFECT_API_URL": settings.prefect_api,
        "PREFECT_UI_URL": settings.prefect_ui,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": str(settings.worker_poll_seconds),
        "DO_NOT_TRACK": "1",
        **({"PREFECT_API_AUTH_STRING": auth.get_secret_value()} if auth else {}),
        **_trusted(settings),
    }


def _trusted(settings: Settings) -> dict[str, str]:
    if not settings.prefect_api.startswith("https:"):
        # There is nothing to verify: each client would read all certificates, 20 ms.
        return {"PREFECT_API_SSL_CERT_FILE": str(NOBODY)}
    return {"PREFECT_API_SSL_CERT_FILE": str(settings.ca_file)} if settings.ca_file else {}


def export_prefect_environment(settings: Settings) -> None:
    """Call before `import prefect`, which reads its settings then, and makes a folder below `data_dir`."""
    with suppress(OSError):
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    os.environ.update(prefect_environment(settings))
