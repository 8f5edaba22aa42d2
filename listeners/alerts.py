"""Alerts from the listener itself: for what happens when Prefect is not there to tell."""

import logging
import threading
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
        self._held: dict[str, int] = {}
        """Subjects told a moment ago, and how many objects have come since."""
        self._lock = threading.Lock()

    def alert(self, subject: str, body: str, *, count: int = 1) -> None:
        """Tell of `count` objects; what comes within QUIET_SECONDS is told together at their end."""
        log.error("%s: %s", subject, printable(body, 500))
        if self._urls is None:
            return
        with self._lock:
            if subject in self._held:
                self._held[subject] += count
                return
            self._held[subject] = 0
        self._start(0, self._send_now, subject, body)
        self._start(QUIET_SECONDS, self._send_held, subject, body)

    def _send_held(self, subject: str, body: str) -> None:
        with self._lock:
            number = self._held.pop(subject)
        if number:
            self._send_now(
                subject, f"{number} more objects in the last {QUIET_SECONDS:.0f} s. The first was:\n\n{body}"
            )

    def _start(self, seconds: float, target: Callable[[str, str], None], subject: str, body: str) -> None:
        timer = threading.Timer(seconds, target, (subject, body))
        timer.daemon = True
        timer.start()

    def _send_now(self, subject: str, body: str) -> None:
        assert self._urls
        try:
            self._send(self._urls, subject, body)
        except Exception as error:  # noqa: BLE001 - whatever a channel raises, the listener goes on
            log.warning("the alert %r could not be sent: %s", subject, type(error).__name__)


def _send(urls: SecretStr, subject: str, body: str) -> None:
    # Imported when there is something to tell: Apprise costs the listener 20 MiB.
    from notifications.channels import open_channel, send, split_urls

    for url in split_urls(urls):
        send(open_channel(url), subject, body)
