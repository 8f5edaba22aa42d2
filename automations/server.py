"""In the Prefect server: it acts in half the time, its log holds no password. A collection of it.

For each action of an automation Prefect 3.8 asks `create_app` for its own application, which looks for it by
a hash of all settings and reads the logging configuration anew: 0.1 s, each time. For each schedule that is
read, with its deployment, it lists the files of all time zones: 4 ms, some ten times a run, workers too.
Both are private to Prefect: the version is pinned in pyproject.toml, and where there is no such function
nothing is changed.
"""

import os
import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from dropflow.logs import hide

PASSWORDS = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")


def remembered(create_app: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which called without arguments gives what it gave last under the same settings."""
    from prefect.settings import get_current_settings

    last: tuple[Any, Any] | None = None

    @wraps(create_app)
    def create(*arguments: Any, **named: Any) -> Any:
        nonlocal last
        if arguments or named:
            return create_app(*arguments, **named)
        settings = get_current_settings()
        if last is None or last[0] is not settings:
            last = settings, create_app()
        return last[1]

    return create


WRAPPED: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("prefect.server.api.server", "create_app", remembered),
    ("prefect.types._datetime", "available_timezones", cache),
]
"""Module, function, and what takes its place."""


def _wrap(module_name: str, name: str, wrapper: Callable[[Any], Any]) -> None:
    """Put a wrapper in the function's place, once, where there is such a function."""
    # Not imported here: workers load collections, too, and are none the server's.
    module = sys.modules.get(module_name)
    function = getattr(module, name, None)
    if function and not hasattr(function, "__wrapped__"):
        setattr(module, name, wrapper(function))


for wrapped in WRAPPED:
    _wrap(*wrapped)
# At DEBUG the server's websockets tell what clients sign in with.
hide(os.environ.get(name, "") for name in PASSWORDS)
