"""Callers of the listener: anonymous until they show a token."""

from starlette.requests import Request

AUTHENTICATED = "dropflow.authenticated"


def mark_authenticated(request: Request) -> None:
    """The caller has shown a token: its connection counts among those that anonymous ones cannot take."""
    request.scope.get("state", {}).get(AUTHENTICATED, lambda: None)()
