"""The one retry policy, a thin face over tenacity."""

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import tenacity

from dropflow.errors import TransientError

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

ATTEMPTS = 5
FIRST_WAIT = 0.2
"""Seconds before the second attempt; doubles up to LONGEST_WAIT, plus as much random jitter."""
LONGEST_WAIT = 10.0


def backoff() -> tenacity.wait.wait_base:
    """Exponential back-off with jitter, in seconds."""
    return tenacity.wait_exponential(FIRST_WAIT, LONGEST_WAIT) + tenacity.wait_random(0, FIRST_WAIT)


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait = state.next_action.sleep if state.next_action else 0.0
    log.warning("%s; attempt %d, next in %.1f s", error, state.attempt_number, wait)


def hurry(attempts: int) -> None:
    """No more attempts than this from now on: for whoever is to say soon what does not answer."""
    retrying.stop = tenacity.stop_after_attempt(attempts)


retrying = tenacity.Retrying(
    retry=tenacity.retry_if_exception_type(TransientError),
    wait=backoff(),
    stop=tenacity.stop_after_attempt(ATTEMPTS),
    before_sleep=_log_retry,
    reraise=True,
)


def retry(function: Callable[P, R]) -> Callable[P, R]:
    """Call again after a TransientError, up to ATTEMPTS times; the last error is raised."""
    return retrying.wraps(function)
