"""Which of our own variables a child process is given: those it reads, and no secret it has no use for."""

import os

from dropflow.settings import FILE
from dropflow.settings import PREFIX as VARIABLE

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
SYSTEM = (
    *("HOME", "LANG", "LC_", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "TEMP", "TMP", "TZ", "USER"),
    *("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_", *_PROXIES, *map(str.lower, _PROXIES)),
    *("PYTHON", "VIRTUAL_ENV", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_"),
)
"""What any program may be told: its language, the way to others, how its libraries behave."""
PREFECT, TRACES = "PREFECT_", "OTEL_"
_OF_THE_LISTENER = ("NOTIFY_URLS", "WEBHOOK_TOKEN", "PAGE_TOKEN", "LEDGER_URL")
NOT_THE_WORKERS = {f"{VARIABLE}{name}{end}" for name in _OF_THE_LISTENER for end in ("", FILE)}
"""Secrets that no run has a use for."""


def inherited(*prefixes: str) -> dict[str, str]:
    """Our variables that begin like one of these, and those that any program may be told."""
    wanted = (*SYSTEM, *prefixes)
    return {name: value for name, value in os.environ.items() if name.startswith(wanted)}


def for_the_worker(environment: dict[str, str]) -> dict[str, str]:
    """All of ours, which a user's own code may read, and these; but not what is the listener's alone."""
    everything = {**os.environ, **environment}
    return {name: value for name, value in everything.items() if name not in NOT_THE_WORKERS}
