"""Which datasets are paused in Prefect."""

import logging
import time

from dropflow.errors import DropflowError
from dropflow.prefect_api import PrefectApi

log = logging.getLogger(__name__)

ASK_AGAIN = 0.5
"""Seconds for which an answer is believed."""


class Paused:
    """Asks Prefect, at most twice a second and only while somebody wants to know."""

    def __init__(self, prefect: PrefectApi) -> None:
        self._prefect = prefect
        self._known: frozenset[str] = frozenset()
        self._asked = float("-inf")

    def __contains__(self, dataset: str) -> bool:
        """While Prefect does not answer, what was known holds."""
        if time.monotonic() - self._asked >= ASK_AGAIN:
            self._asked = time.monotonic()
            try:
                self._known = self._prefect.paused()
            except DropflowError as error:
                log.warning("whether datasets are paused: %s; going on with what was known", error)
        return dataset in self._known
