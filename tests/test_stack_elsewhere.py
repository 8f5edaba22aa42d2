"""Commands and workers as on other machines: by TLS, and with addresses and credentials alone."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from authority import Authority, in_front_of
from command_line import WORKER, started
from conftest import Running, wait_until
from distributed import Client

from dropflow.samples import churn_csv
from flows.cluster import NO_PROFILER
from flows.execution import MOST_SHOWN

pytestmark = pytest.mark.stack

DASK = str(Path(sys.executable).with_name("dask"))


def environment_of(running: Running, folder: Path) -> dict[str, str]:
    settings = running.settings
    assert settings.s3_endpoint
    assert settings.s3_access_key
    assert settings.s3_secret_key
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "DROPFLOW_DATA_DIR": str(folder / "data"),
        "DROPFLOW_S3_ENDPOINT": settings.s3_endpoint,
        "DROPFLOW_S3_ACCESS_KEY": settings.s3_access_key.get_secret_value(),
        "DROPFLOW_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "DROPFLOW_PREFECT_API_URL": settings.prefect_api,
        "DROPFLOW_PREFECT_AUTH": auth_of(running),
    }


def auth_of(running: Running) -> str:
    auth = running.settings.prefect_auth
    assert auth
    return auth.get_secret_value()


def port_of(url: str) -> int:
    return int(url.removesuffix("/api").rpartition(":")[2])


@contextmanager
def worker_elsewhere(
    running: Running, folder: Path, **more: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`dropflow worker`, which stands in for the stack's own, and its log."""
    own, log = running.stack.supervisor.processes["worker"], folder / "worker.log"
    own.stop()
    try:
        with started(WORKER, environment_of(running, folder) | more, log) as worker:
            yield worker, log
    finally:
        own.start()


def test_prefects_own_client_trusts_the_authority_in_the_file(running: Running, tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    port = int(running.settings.prefect_api.removesuffix("/api").rpartition(":")[2])
    with in_front_of(port, ours.server()) as secure:
        url = f"https://127.0.0.1:{secure}/api"
        trusted, other = (
            running.cli(
                *("apply", "--diff"),
                DROPFLOW_PREFECT_API_URL=url,
                DROPFLOW_PREFECT_AUTH=auth_of(running),
                DROPFLOW_CA_FILE=str(one.file),
            )
            for one in (ours, theirs)
        )
    assert trusted.returncode == 0, trusted.stderr
    assert other.returncode == 2, other.stderr
    assert "DROPFLOW_CA_FILE" in other.stderr
    assert "Traceback" not in other.stderr


def test_a_worker_works_over_tls_until_its_credentials_are_replaced(running: Running, tmp_path: Path) -> None:
    authority, auth = Authority(tmp_path, "ours"), tmp_path / "auth"
    auth.write_text(auth_of(running))
    store, prefect = port_of(running.settings.s3_endpoint or ""), port_of(running.settings.prefect_api)
    with (
        in_front_of(store, authority.server()) as store,
        in_front_of(prefect, authority.server()) as prefect,
        worker_elsewhere(
            running,
            tmp_path,
            DROPFLOW_S3_ENDPOINT=f"https://127.0.0.1:{store}",
            DROPFLOW_PREFECT_API_URL=f"https://127.0.0.1:{prefect}/api",
            DROPFLOW_PREFECT_AUTH="",
            DROPFLOW_PREFECT_AUTH_FILE=str(auth),
            DROPFLOW_CA_FILE=str(authority.file),
        ) as (worker, log),
    ):
        drop = running.put("churn/over-tls.csv", churn_csv(20))
        assert running.outcome(drop).fate == "processed"
        (run,) = running.runs(drop)
        assert f" {worker.pid} " in run["labels"]["prefect.worker.name"]
        auth.write_text("user:after")
        assert worker.wait(60) == 2
    *before, last = log.read_text().splitlines()
    # Prefect tells it of every run that ends with events still to be sent, and sends them.
    assert not [line for line in before if "WARNING" in line and "Still processing items" not in line]
    assert last.endswith("DROPFLOW_PREFECT_AUTH was replaced: ending, to be started with the new one")


def test_a_worker_outlives_an_error_of_the_server_and_says_in_a_line_that_it_is_not_let_in(
    running: Running, tmp_path: Path
) -> None:
    statuses = {b"GET /api/deployments/": [500], b"/set_state ": [504]}

    def instead(request: bytes) -> bytes:
        line = request.partition(b"\r\n")[0]
        found = next((statuses[part] for part in statuses if part in line and statuses[part]), None)
        return b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % found.pop() if found else b""

    with (
        in_front_of(port_of(running.settings.prefect_api), None, instead) as port,
        worker_elsewhere(running, tmp_path, DROPFLOW_PREFECT_API_URL=f"http://127.0.0.1:{port}/api") as (
            worker,
            log,
        ),
    ):
        drop = running.put("churn/in-trouble.csv", churn_csv(20))
        assert running.outcome(drop).fate == "processed"
        (run,) = running.runs(drop)
        assert f" {worker.pid} " in run["labels"]["prefect.worker.name"]
        # The receipt comes first: not let in, the run itself would end with a traceback.
        wait_until(lambda: running.runs(drop)[0]["state_type"] == "COMPLETED", 30, "the run's end")
        assert not any(statuses.values())
        statuses[b"/api/"] = [401] * 100
        assert worker.wait(60) == 2
    assert "ExceptionGroup" not in log.read_text()
    assert "set DROPFLOW_PREFECT_AUTH to the server's" in log.read_text()


def test_a_dask_cluster_prepares_the_batches_of_a_worker(running: Running, tmp_path: Path) -> None:
    environment = environment_of(running, tmp_path) | dict([NO_PROFILER.split("=")])
    log = tmp_path / "scheduler.log"
    scheduler = [DASK, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    with started(scheduler, environment, log):
        found = wait_until(lambda: re.search(r"tcp://127\.0\.0\.1:\d+", log.read_text()), 60, "the scheduler")
        worker = [DASK, "worker", found[0], "--nthreads", "2", "--no-dashboard"]
        with (
            started(worker, environment, tmp_path / "dask.log"),
            worker_elsewhere(running, tmp_path, DROPFLOW_DASK_SCHEDULER=found[0]),
            Client(found[0], set_as_default=False) as client,
        ):
            client.wait_for_workers(1, timeout=60)
            keys = [f"churn/by-dask-{number:02}.csv" for number in range(30)]
            drops = [running.put(key, churn_csv(20, seed=place)) for place, key in enumerate(keys)]
            assert {running.outcome(drop).fate for drop in drops} == {"processed"}
            # A task is at least released, waiting, at work and in memory; a handful may have come in a run of its own.
            moves = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)
            assert moves > 4 * (len(keys) - MOST_SHOWN)
