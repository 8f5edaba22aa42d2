"""A Dask cluster that prepares the objects of a batch, where DROPFLOW_DASK_SCHEDULER names its scheduler.

An object is a task. What travels is its key and the `Work`: a Dask worker has Dropflow installed, and
settings and credentials of its own.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from dropflow import __version__
from dropflow.errors import SettingsError, TransientError
from dropflow.settings import load_settings
from dropflow.storage import connect
from flows.outcomes import Apart, Outcome
from flows.preparation import Work

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

ANSWER_SECONDS, POLL_SECONDS = 10, 0.02
AHEAD = 1000
"""Tasks that the scheduler has at once: it need not hold a million keys of a glob."""
KILLS = "brings down the Dask workers that prepare it: their logs may tell why"
NO_PROFILER = "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False"


def connected(scheduler: str, seconds: float) -> "Client":
    """Raises SettingsError without Dask, TransientError where the scheduler does not answer in time."""
    try:
        from distributed import Client
    except ImportError as error:
        raise SettingsError("DROPFLOW_DASK_SCHEDULER needs Dask: pip install dropflow[dask]") from error
    try:
        return Client(scheduler, timeout=seconds, set_as_default=False)
    except OSError as error:
        raise TransientError(f"{scheduler} does not answer: {error}") from error


def prepare(
    scheduler: str, work: Work, keys: Sequence[str], *, one_teaches: bool = False
) -> Iterator[Outcome]:
    """Prepare the objects; outcomes come as they are done, with what was logged.

    `one_teaches`: the preprocessor is fitted on the first that can be prepared, before the others. Where the
    scheduler cannot be reached, or is lost, what is left is interrupted. Raises SettingsError without Dask.
    """
    try:
        client = connected(scheduler, ANSWER_SECONDS)
    except TransientError as error:
        for key in keys:
            yield _interrupted(work, key, str(error))
        return
    with client:
        waiting = iter(keys)
        while one_teaches and (first := next(waiting, None)) is not None:
            for prepared, lines in _shared(client, work, iter([first])):
                yield prepared, lines
                if prepared.is_done:
                    one_teaches, work = False, replace(work, refit=False)
        yield from _shared(client, work, waiting)


def _shared(client: "Client", work: Work, keys: Iterator[str]) -> Iterator[Outcome]:
    from distributed import as_completed

    at_work: dict[str, str] = {}
    done = as_completed(loop=client.loop)
    while True:
        some = list(islice(keys, AHEAD - len(at_work)))
        if not some and not at_work:
            return
        # Not pure: Dask would remember outcomes by key, and other bytes may stand there by then.
        futures = client.map(_prepared, some, work=work, version=__version__, pure=False)
        at_work.update(zip((one.key for one in futures), some, strict=True))
        done.update(futures)
        while not (ready := done.next_batch(block=False)) and client.status == "running":
            time.sleep(POLL_SECONDS)
        for future in ready:
            yield _outcome(future, work, at_work.pop(future.key))
        if client.status != "running":
            for key in (*at_work.values(), *keys):
                yield _interrupted(work, key, "its scheduler is gone")
            return


def _outcome(future: "Future", work: Work, key: str) -> Outcome:
    from distributed import KilledWorker

    if future.status == "finished":
        outcome: Outcome = future.result()
        return outcome
    error = future.exception() if future.status == "error" else None
    if isinstance(error, KilledWorker):
        return work.outcome(key, "failed", KILLS), []
    # Whatever the object is like, preparing it raises nothing: the cluster is not as it should be.
    return _interrupted(
        work, key, f"{type(error).__name__}: {error}" if error else f"its task is {future.status}"
    )


def _interrupted(work: Work, key: str, why: str) -> Outcome:
    return work.outcome(key, "interrupted", f"the Dask cluster: {why}; it is tried again"), []


_mine = threading.local()
"""Of a Dask worker's thread, which prepares one object at a time."""


_unwarned = threading.Lock()
"""Taken for good by the thread of a Dask worker that warns."""


def _warn_of_profiler() -> None:
    """Once a process: before Python 3.12, asking for all threads' frames while garbage is collected can
    deadlock (python/cpython#106883). Dask's profiler does so every 10 ms (dask/distributed#8616)."""
    from dask import config

    if sys.version_info >= (3, 12) or not config.get("distributed.worker.profile.enabled"):
        return
    if _unwarned.acquire(blocking=False):
        log.warning(
            "on Python before 3.12 Dask's profiler can halt this worker for good: set %s", NO_PROFILER
        )


def _apart(work: Work) -> Apart:
    """This thread's: the next object is mostly of the same run. Raises SettingsError."""
    if not hasattr(_mine, "store"):
        _warn_of_profiler()
        _mine.store = connect(load_settings())
    if getattr(_mine, "work", None) != work:
        _mine.apart, _mine.work = Apart(work, _mine.store), work
    apart: Apart = _mine.apart
    return apart


def _prepared(key: str, *, work: Work, version: str) -> Outcome:
    """On a Dask worker. Raises SettingsError where that has no settings, or another version of Dropflow."""
    if version != __version__:
        raise SettingsError(f"the run has Dropflow {version}, a Dask worker {__version__}")
    return _apart(work).prepare(key)
