"""Secrets that a process takes up when it starts, and that are replaced in their files while it runs."""

import logging

from pydantic import ValidationError

from dropflow.settings import PREFIX, Settings, explain

log = logging.getLogger(__name__)


class TakenUp:
    """The secrets of these names, as they were when this was made."""

    def __init__(self, settings: Settings, *names: str) -> None:
        self._settings, self._names = settings, names
        self._held = self._seen = self._values()

    def replaced(self) -> list[str]:
        """The variables whose files hold another secret by now; none while one of them is not valid."""
        found = self._values()
        is_new, self._seen = found != self._seen, found
        names = [PREFIX + name.upper() for name in found if found[name] != self._held[name]]
        if names and (why := self._why_not(found)):
            if is_new:
                log.warning("secrets stay as they were: %s", why)
            return []
        return names

    def _values(self) -> dict[str, str]:
        secrets = {name: getattr(self._settings, name) for name in self._names}
        return {name: secret.get_secret_value() for name, secret in secrets.items() if secret}

    def _why_not(self, values: dict[str, str]) -> str:
        try:
            Settings.model_validate({**dict(self._settings), **values})
        except ValidationError as error:
            return explain(error)
        return ""
