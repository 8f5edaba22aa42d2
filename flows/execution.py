"""What a run's process does: `prefect flow-run execute` without its start-up, and without what we need not.

As `automations/server.py` it leans on Prefect below its documented surface: on `prefect.flow_engine` and
`prefect.results`, pinned by the version in pyproject.toml.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from uuid import UUID

from dropflow import tracing
from dropflow.logs import about, log_to_stderr
from flows.limits import lead_session

LOG_FORMAT = "DROPFLOW_LOG_FORMAT"
LONG = ("train",)
"""Flows whose runs are long enough to be suspended from the UI."""
MOST_SHOWN = 1
"""Objects of a run whose every stage is a task run of its own: so shown, an object costs twice as much."""


def run_flow_run(flow_run_id: UUID, environment: dict[str, str], at_once: int = 0) -> None:
    """In the forked process: load the flow and run it to its end. `at_once`: preparers it is given."""
    # Imported by the template; the worker, which names this function, does without.
    from prefect import flow_engine, results
    from prefect.engine import handle_engine_signals

    from flows import preparers

    lead_session()
    os.environ.update(environment)
    tempfile.tempdir = None  # the template may have asked for it, and it is the run's own
    if environment.get(LOG_FORMAT) == "json":
        # The template has imported Prefect, which has set up its own.
        log_to_stderr(as_json=True, anew=True)
    with (
        about(run_id=str(flow_run_id)),
        preparers.forked_for_the_run(at_once),
        handle_engine_signals(flow_run_id),
    ):
        flow_run, flow = flow_engine.load_flow_and_flow_run(flow_run_id)
        _do_without(flow_engine, "_send_heartbeats")
        if flow.name not in LONG:
            _do_without(flow_engine, "observe_flow_run_suspension")
        _ask_once(results, "_read_server_default_result_storage_block_id")
        try:
            flow_engine.run_flow(flow, flow_run=flow_run)
        finally:
            # Here, not at the process's exit, which runs nothing of the kind in a forked one.
            tracing.flush()


def _do_without(engine: Any, name: str) -> None:
    """Replace one of the engine's contexts by none: 0.3 and 0.5 s a run.

    The heartbeat's thread sleeps by the second, and a run waits for it at its end; ours are looked after
    by their process. To listen for a wish to suspend it, a run opens a websocket first.
    """
    assert callable(getattr(engine, name))
    setattr(engine, name, _nothing)


def _ask_once(module: Any, name: str) -> None:
    """Of what an engine asks the server three times a run, 0.04 s each."""
    setattr(module, name, cache(getattr(module, name)))


@contextmanager
def _nothing(*_: object) -> Iterator[None]:
    yield
