"""On the real stack: what takes too much is ended and says why; what is large is taken part by part."""

import asyncio
import io
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import misbehaving
import pandas as pd
import psutil
import pytest
from conftest import Running, wait_until
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Running as AtWork

from dropflow.samples import churn_csv
from flows.worker import LOOKS, Doubts, mark_crashed_runs

pytestmark = pytest.mark.stack

GOOD = churn_csv(rows=30, seed=61)


@pytest.fixture(autouse=True)
def _prefect(running: Running) -> Iterator[None]:
    auth = running.settings.prefect_auth
    assert auth
    chosen = {
        PREFECT_API_URL: running.settings.prefect_api,
        PREFECT_API_AUTH_STRING: auth.get_secret_value(),
    }
    with temporary_settings(chosen):
        yield


def started(running: Running, flow: Flow[..., Any], variables: dict[str, Any], **parameters: Any) -> str:
    """A run of the flow on the stack's worker; its id."""
    deployment = flow.to_deployment(name=f"test {uuid4()}", job_variables=variables)
    made = deployment.apply(work_pool_name=running.settings.work_pool)
    with get_client(sync_client=True) as client:
        return str(client.create_flow_run_from_deployment(made, parameters=parameters).id)


def state_of(running: Running, run: str) -> dict[str, Any]:
    """Its state once it has ended; and the worker has time to say something else."""

    def ended() -> Any:
        state = running.api("GET", f"/flow_runs/{run}")["state"]
        return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    wait_until(ended, 90, "the end of the run")
    time.sleep(2)
    state: dict[str, Any] = ended()
    return state


def worker_of(running: Running) -> int:
    (worker,) = (
        process.pid
        for process in psutil.process_iter(["cmdline", "environ"])
        if (process.info["cmdline"] or [])[-3:] == ["-m", "dropflow", "worker"]
        and (process.info["environ"] or {}).get("DROPFLOW_DATA_DIR") == str(running.settings.data_dir)
    )
    return worker


@pytest.mark.parametrize(
    ("flow", "variables", "name", "reason"),
    [
        (misbehaving.eat_memory, {"memory_mib": 700}, "OutOfMemory", "took more than 700 MiB of memory"),
        (misbehaving.hang, {"minutes": 0.05}, "TimedOut", "ran longer than 0.05 minutes"),
        (misbehaving.fork_without_end, {}, "TooManyProcesses", "started more than 64 processes"),
        (misbehaving.segfault, {}, "Crashed", "was ended by SIGSEGV: a library read memory"),
        (misbehaving.leave, {}, "Crashed", "ended with exit code 3"),
    ],
)
def test_a_run_that_misbehaves_is_ended_and_says_why(
    running: Running, flow: Flow[..., Any], variables: dict[str, Any], name: str, reason: str
) -> None:
    worker = worker_of(running)
    run = started(running, flow, variables)
    sibling = running.put(f"churn/sibling-of-{flow.name}.csv", GOOD)
    state = state_of(running, run)
    assert (state["type"], state["name"]) == ("CRASHED", name)
    assert reason in state["message"]
    pid = int(running.api("GET", f"/flow_runs/{run}")["infrastructure_pid"])
    assert not [p for p in psutil.process_iter() if p.pid == pid]
    assert running.outcome(sibling).receipt
    assert worker_of(running) == worker


def test_what_a_run_leaves_behind_ends_with_it(running: Running) -> None:
    name = str(uuid4())
    run = started(running, misbehaving.leave_processes_behind, {}, name=name)
    assert state_of(running, run)["type"] == "COMPLETED"
    assert not [p for p in psutil.process_iter(["cmdline"]) if name in (p.info["cmdline"] or ())]


def at_work_elsewhere(running: Running, worker: str) -> str:
    """A run that a worker of another machine has begun, and Prefect has just heard of that worker."""
    pool = running.settings.work_pool
    running.api("POST", f"/work_pools/{pool}/workers/heartbeat", json={"name": worker})
    deployment = misbehaving.hang.to_deployment(name=f"test {uuid4()}").apply(work_pool_name=pool)
    with get_client(sync_client=True) as client:
        made = client.create_flow_run_from_deployment(
            deployment, state=AtWork(), labels={"prefect.worker.name": worker}
        )
    return str(made.id)


def test_runs_of_a_machine_that_is_gone_are_marked_as_crashed(running: Running) -> None:
    pool, doubts = running.settings.work_pool, Doubts()
    lost, alive = at_work_elsewhere(running, "gone 1 ab12cd"), at_work_elsewhere(running, "there 1 ab12cd")
    running.api("DELETE", f"/work_pools/{pool}/workers/gone 1 ab12cd")
    marked = [asyncio.run(mark_crashed_runs(pool, "own", doubts)) for _ in range(LOOKS)]
    assert marked == [0] * (LOOKS - 1) + [1]
    assert state_of(running, lost)["message"].startswith("The worker was killed")
    assert running.api("GET", f"/flow_runs/{alive}")["state"]["type"] == "RUNNING"
    running.api("DELETE", f"/flow_runs/{alive}")


def test_a_large_file_is_prepared_part_by_part(running: Running) -> None:
    drop = running.put("churn/large.csv", churn_csv(rows=50_000, seed=62))
    receipt = running.outcome(drop).receipt
    assert receipt
    assert (receipt.rows_in, receipt.rows_out) == (50_000, 50_000)
    assert all(step.detail.endswith("part by part") for step in receipt.steps)
    body = running.store.get(receipt.output_bucket, receipt.output_key)[1]
    output = pd.read_parquet(io.BytesIO(body))
    assert len(output) == 50_000
    assert abs(output["Age"].mean()) < 1e-9
    titles = {run["name"] for run in running.api("POST", "/task_runs/filter", json=_of(receipt.flow_run_id))}
    assert {"prepare part by part", "write"} <= titles


def _of(run: str) -> dict[str, Any]:
    return {"flow_runs": {"id": {"any_": [run]}}}
