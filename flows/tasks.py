"""Stages of the preparation as Prefect tasks: seen, timed and retried in the UI."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import httpx
from prefect import Flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.tasks import Task

from dropflow.errors import TransientError

RETRIES = 3
RETRY_DELAYS = [1.0, 5.0, 20.0]
"""Seconds; storage calls have retried quickly by then, so these wait for a server to come back."""


RETRY_JITTER = 0.5
"""Up to half as long again: runs that failed together must not come back together."""


async def retry_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(await state.aresult(raise_on_failure=False), TransientError)


@lru_cache(maxsize=256)
def _task(title: str, function: Callable[..., Any]) -> Task[..., Any]:
    made: Task[..., Any] = task(
        name=title.partition(" ")[0],
        # A function: text would be a template, and columns may have braces in their names.
        task_run_name=lambda: title,
        retries=RETRIES,
        retry_delay_seconds=RETRY_DELAYS,
        retry_jitter_factor=RETRY_JITTER,
        retry_condition_fn=retry_transient,
        # Frames are handed on in memory: hashing and storing them would cost more than the steps.
        cache_policy=NO_CACHE,
        persist_result=False,
    )(function)
    return made


def as_subflow(title: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function as a subflow of this title.

    A flow's parameters are sent to the API, which takes 512 KB: the frames stay here.
    """

    def part() -> Any:
        return function(*arguments)

    return Flow(part, name=title, flow_run_name=title, persist_result=False)()


SHORT = ("check receipt", "reuse", "commit")
"""Stages that are not worth a task run: one takes longer than any of them."""


def as_task(title: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run one stage as a task run of this title. Raises TransientError when Prefect does not answer."""
    if title in SHORT:
        return function(*arguments)
    try:
        return _task(title, function)(*arguments)
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        # The file is not to blame.
        raise TransientError(f"Prefect API: {error!r}") from error
