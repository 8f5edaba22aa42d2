"""Callers of the listener: strangers, until they show a token."""

from starlette.requests import Request

KNOWN = "dropflow.known"


def note_known(request: Request) -> None:
    """The caller has shown a token: the server has room for it that no stranger can take."""
    request.scope.get("state", {}).get(KNOWN, lambda: None)()
