"""Alerts from the listener itself: for what happens when Prefect is not there to tell."""

import logging
import threading
import time
from collections.abc import Callable

from pydantic import SecretStr

from dropflow.objects import printable

log = logging.getLogger(__name__)

QUIET_SECONDS = 60.0
"""Between two alerts of one subject; what comes meanwhile is counted in the next."""


class Alerts:
    """Sends through Apprise, in a thread of its own: a slow channel delays nothing."""

    def __init__(
        self, urls: SecretStr | None, send: Callable[[SecretStr, str, str], None] | None = None
    ) -> None:
        self._urls = urls
        self._send = send or _send
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()

    def alert(self, subject: str, body: str, *, count: int = 1) -> None:
        """Tell, at most once in QUIET_SECONDS per subject; `count` objects are concerned."""
        log.error("%s: %s", subject, printable(body, 500))
        if self._urls is None:
            return
        with self._lock:
            held = self._held.pop(subject, 0) + count
            if time.monotonic() - self._last.get(subject, -QUIET_SECONDS) < QUIET_SECONDS:
                self._held[subject] = held
                return
            self._last[subject] = time.monotonic()
        more = f"\n\n{held} objects are concerned since the last such message." if held > count else ""
        threading.Thread(
            target=self._try, args=(self._urls, subject, body + more), name="alert", daemon=True
        ).start()

    def _try(self, urls: SecretStr, subject: str, body: str) -> None:
        try:
            self._send(urls, subject, body)
        except Exception as error:  # noqa: BLE001 - whatever a channel raises, the listener goes on
            log.warning("the alert %r could not be sent: %s", subject, type(error).__name__)


def _send(urls: SecretStr, subject: str, body: str) -> None:
    # Imported when there is something to tell: Apprise costs the listener 20 MiB.
    from notifications.channels import open_channel, send, split_urls

    for url in split_urls(urls):
        send(open_channel(url), subject, body)
