"""A warm worker: every flow run in its own process, forked from one that has imported everything.

A stock process worker pays 3 to 6 s of imports a run. Python's forkserver pays them once; a fork
takes a fraction of a second and is as isolated as any other process. When the code changes, the template
is made anew; `DROPFLOW_WORKER_START=spawn` does without one.
"""

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.abc
import httpx
import psutil
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkerFilter,
    WorkerFilterStatus,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import InfrastructureNotFound, PrefectHTTPStatusError
from prefect.states import Crashed
from prefect.workers.base import (
    BaseJobConfiguration,
    BaseVariables,
    BaseWorker,
    BaseWorkerResult,
)
from pydantic import Field

from dropflow.clock import ahead_of_us
from dropflow.errors import PermanentError, SettingsError
from dropflow.prefect_api import refused
from dropflow.rotation import TakenUp
from dropflow.settings import Settings
from dropflow.tls import trust, unreachable
from flows import alive
from flows.execution import LOG_FORMAT, MOST_SHOWN, run_flow_run
from flows.limits import (
    EVICTED,
    MIB,
    SHARE_OF_MACHINE,
    Excess,
    Limits,
    MemoryBudget,
    end_session,
    first_excess,
    how_it_ended,
    memory_of_machine,
)
from flows.template import Template, exit_code
from flows.wakeup import poll_when_told

log = logging.getLogger(__name__)

AT_WORK = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
PAGE = 200
CLOCK_OFF = 5.0
"""Seconds between our clock and the server's that are told of."""
LOOK_SECONDS = 15
"""Between two looks for runs that a killed worker has left."""
LOOKS = 4
"""In a row, in which a worker of another machine is offline. After an outage of Prefect all are, at first."""
KILLED: State[Any] = Crashed(message="The worker was killed. What has no receipt is delivered again.")
MUTE: State[Any] = Crashed(message="Its end could not be told. What has no receipt is delivered again.")
FOLLOW_SECONDS = 2
"""Between two looks at the file with Prefect's credentials."""
DRAIN_SECONDS = 30
"""Given to runs at work: they go by the credentials that they were started with."""
WORKER_TYPE = "dropflow"
ENTRYPOINT = "PREFECT__FLOW_ENTRYPOINT"
"""What Prefect's own runner tells its processes by."""


class WarmConfiguration(BaseJobConfiguration):
    """What a work pool, a deployment or one run may set: the run's job variables in the UI."""

    memory_mib: float | None = Field(
        default=None,
        gt=0,
        title="Memory",
        description="MiB that the run's processes may take together; empty: as the worker is set.",
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        title="Minutes",
        description="The run is ended after so long; empty: as the worker is set.",
    )

    def prepare_for_flow_run(
        self, flow_run: FlowRun, deployment: DeploymentResponse | None = None, *args: Any, **named: Any
    ) -> None:
        """As Prefect does, and name the flow: else the run's process asks for its deployment, 0.1 s."""
        super().prepare_for_flow_run(flow_run, deployment, *args, **named)
        entrypoint = (deployment and deployment.entrypoint) or ""
        # A file's path has a colon; it, and what pull steps fetch, Prefect has to look for itself.
        if deployment and entrypoint and ":" not in entrypoint and not deployment.pull_steps:
            self.env.setdefault(ENTRYPOINT, entrypoint)

    def limits(self, settings: Settings) -> Limits:
        mib = self.memory_mib or settings.run_memory_mib
        return Limits(
            memory=mib * MIB if mib else memory_of_machine() * SHARE_OF_MACHINE,
            seconds=(self.minutes or settings.run_minutes) * 60,
        )


class WarmWorkerResult(BaseWorkerResult):
    """How a run's process ended."""


class WarmWorker(BaseWorker[WarmConfiguration, BaseVariables, WarmWorkerResult]):
    """Runs flow runs in processes forked from a preloaded template."""

    type = WORKER_TYPE
    job_configuration = WarmConfiguration
    _description = "Runs preprocessing in processes forked from a preloaded template: no import time."

    def __init__(self, *args: Any, settings: Settings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._polling = asyncio.Lock()
        self._settings = settings
        self._template = Template(settings.worker_start)
        self._at_work: set[int] = set()
        self._budget = MemoryBudget(memory_of_machine() * SHARE_OF_MACHINE)

    async def drain(self, seconds: float) -> None:
        """Take no more runs, and wait until those at work have ended, or so long."""
        await self._polling.acquire()
        with anyio.move_on_after(seconds):
            while self._at_work:
                await anyio.sleep(0.1)

    def warm_up(self) -> None:
        """Start the template process and wait until its imports are done."""
        self._template.warm_up()

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Poll. A run retried before its last process has gone waits for the next poll.

        Prefect's base class lets anyio's refusal of a second slot for the same run end the worker.
        """
        try:
            async with self._polling:
                return await super().get_and_submit_flow_runs()
        except RuntimeError as error:
            if "already holding" not in str(error):
                raise
            log.info("a run is being retried while its last process still ends; asking again soon")
            return []

    async def run(
        self,
        flow_run: FlowRun,
        configuration: WarmConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> WarmWorkerResult:
        """Fork, run, wait. One that does not end well by itself is a crashed run, which says why."""
        environment = {name: value for name, value in configuration.env.items() if value is not None}
        with TemporaryDirectory(prefix="dropflow-run-", ignore_cleanup_errors=True) as folder:
            environment["TMPDIR"] = folder
            environment[LOG_FORMAT] = self._settings.log_format
            at_once = self._preparers(flow_run, configuration)
            process = await asyncio.to_thread(
                self._template.start, run_flow_run, flow_run.id, environment, at_once
            )
            assert process.pid is not None
            self._at_work.add(process.pid)
            if task_status:
                task_status.started(process.pid)
            try:
                limits = configuration.limits(self._settings)
                limits = replace(limits, processes=limits.processes + at_once)
                code, excess = await self._watched(process, limits)
            finally:
                self._at_work.discard(process.pid)
        if excess:
            beside = set(self._at_work)
            await self._report(flow_run, Crashed(name=excess.name, message=excess.reason))
            while excess.name == EVICTED and beside & self._at_work:
                # Its place stays taken: it would be begun anew beside the same runs.
                await anyio.sleep(0.1)
        elif code:
            await self._report(flow_run, Crashed(message=how_it_ended(code)))
        return WarmWorkerResult(status_code=code, identifier=str(process.pid))

    def _preparers(self, flow_run: FlowRun, configuration: WarmConfiguration) -> int:
        is_ours = is_batch(flow_run, configuration) and not self._settings.dask_scheduler
        return self._settings.batch_processes if is_ours else 0

    async def _watched(self, process: BaseProcess, limits: Limits) -> tuple[int, Excess | None]:
        """The exit code of a run's process, and the limit it has crossed."""
        assert process.pid is not None
        ended = asyncio.ensure_future(exit_code(process))
        try:
            excess = await first_excess(process.pid, limits, ended, self._budget)
            # Also what it has left behind; the exit code comes once its own process has gone.
            await asyncio.to_thread(end_session, process.pid)
            return await ended, excess
        except BaseException:
            # The worker is being stopped, or cannot watch: the run may tell Prefect itself.
            process.terminate()
            ended.cancel()
            raise

    async def _report(self, flow_run: FlowRun, crashed: State[Any]) -> None:
        """Say why. A run that has told of its own end, or was cancelled, is left as it is."""
        log.warning("run %s: %s", flow_run.id, crashed.message)
        there = (await self.client.read_flow_run(flow_run.id)).state
        if there is None or not (there.is_final() or there.is_cancelling()):
            await self.client.set_flow_run_state(flow_run.id, crashed)

    async def kill_infrastructure(
        self,
        infrastructure_pid: str,
        configuration: WarmConfiguration,  # noqa: ARG002 - Prefect's signature
        grace_seconds: int = 30,
    ) -> None:
        """End a run's process: SIGTERM, then SIGKILL after `grace_seconds`.

        Raises InfrastructureNotFound when it has ended already.
        """
        pid = int(infrastructure_pid)
        if pid not in self._at_work:
            raise InfrastructureNotFound(f"process {pid} is none of this worker's")
        os.kill(pid, signal.SIGTERM)
        with anyio.move_on_after(grace_seconds):
            while pid in self._at_work:
                await anyio.sleep(0.1)
            return
        os.kill(pid, signal.SIGKILL)


def is_batch(flow_run: FlowRun, configuration: BaseJobConfiguration) -> bool:
    """Whether a run prepares more objects than are shown one by one, or may do so."""
    if configuration.labels.get("prefect.io/flow-name") != "preprocess":
        return False
    keys = flow_run.parameters.get("keys") or []
    return not keys or len(keys) > MOST_SHOWN or bool(flow_run.parameters.get("glob"))


def run_worker(settings: Settings) -> None:
    """Work for the pool until SIGTERM: wait for server and pool, warm up, poll.

    Raises SettingsError when Prefect's credentials were replaced in their file: it is to be started again;
    DropflowError or httpx.TransportError when Prefect refuses, or is away for longer than its client waits.
    `export_prefect_environment` must have been called before this module was imported.
    """
    # For `prepare: module:function`. Last: no file in it must stand in for a library.
    sys.path.append(str(settings.datasets_dir.absolute().parent))
    try:
        asyncio.run(_work(settings))
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, PrefectHTTPStatusError):
            raise refused(error.response, f"{error.request.method} {error.request.url.path}") from group
        if isinstance(error, httpx.TransportError):
            raise error from group
        raise


async def _work(settings: Settings) -> None:
    worker = WarmWorker(
        work_pool_name=settings.work_pool,
        limit=settings.worker_limit,
        create_pool_if_not_found=True,
        name=worker_name(os.getpid()),
        prefetch_seconds=0,
        settings=settings,
    )
    # Its runs need not ask again, twice each, whether the server's version is one for ours.
    os.environ.setdefault("PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED", "false")
    touching = asyncio.create_task(alive.touch_for_ever(settings.data_dir / alive.NAME))
    warming = asyncio.create_task(asyncio.to_thread(worker.warm_up))
    await _wait_for_server(settings)
    await warming
    async with asyncio.TaskGroup() as together:
        others = [
            together.create_task(_mark_crashed_runs_for_ever(settings.work_pool, worker.name)),
            together.create_task(poll_when_told(worker.get_and_submit_flow_runs)),
        ]
        polling = together.create_task(worker.start(printer=log.info))
        outdated = together.create_task(_outdated(TakenUp(settings, "prefect_auth"), worker))
        await asyncio.wait({polling, outdated}, return_when=asyncio.FIRST_COMPLETED)
        for task in (polling, outdated, *others, touching):
            task.cancel()
    if not outdated.cancelled():
        raise SettingsError(f"{outdated.result()} was replaced: ending, to be started with the new one")


async def _outdated(secrets: TakenUp, worker: WarmWorker) -> str:
    """Which secret was replaced, once no run is at work. Prefect's client keeps what it was made with."""
    while not (replaced := await asyncio.to_thread(secrets.replaced)):
        await asyncio.sleep(FOLLOW_SECONDS)
    log.info("%s was replaced: no more runs are begun", replaced[0])
    await worker.drain(DRAIN_SECONDS)
    return replaced[0]


def worker_name(pid: int) -> str:
    """Names process and machine; never the same twice: a restarted container has the pid of the last."""
    return f"{socket.gethostname()} {pid} {uuid4().hex[:6]}"


@dataclass
class Doubts:
    """What looks for runs without an end have seen so far: one alone proves nothing."""

    silent: Counter[str] = field(default_factory=Counter)
    """In how many looks, one after another, a worker of another machine was offline."""
    ended: set[UUID] = field(default_factory=set)
    """Our own, at work by Prefect although their process had ended: their last words may be on their way."""


async def _mark_crashed_runs_for_ever(work_pool: str, own_name: str) -> None:
    """Again and again: the processes of a killed worker's runs may outlive it, and Prefect not answer."""
    doubts = Doubts()
    while True:
        try:
            if marked := await mark_crashed_runs(work_pool, own_name, doubts):
                log.warning("%d runs that have ended without a word were marked as crashed", marked)
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            log.warning("runs that have ended without a word could not be looked for: %r", error)
        await asyncio.sleep(LOOK_SECONDS)


async def mark_crashed_runs(work_pool: str, own_name: str, doubts: Doubts) -> int:
    """Runs that Prefect takes to be at work, and that will never end: mark them as crashed.

    Returns how many. Those of a worker that was killed on this machine, unless their own process is still
    there and goes on by itself; those of a worker on another machine, or in a pod, that Prefect hears nothing
    of any more; and our own whose process has ended without a word.
    """
    async with get_client() as client:
        runs = await _runs_at_work(client, work_pool)
        by_worker = {run.id: str((run.labels or {}).get("prefect.worker.name", "")) for run in runs}
        await _count_silent(client, work_pool, set(by_worker.values()), doubts.silent)
        ended: set[UUID] = set()
        abandoned: dict[UUID, State[Any]] = {}
        for run in runs:
            name = by_worker[run.id]
            if name == own_name:
                if run.infrastructure_pid and not _lives(run.infrastructure_pid):
                    ended.add(run.id)
            elif doubts.silent[name] >= LOOKS or is_abandoned(name, run.infrastructure_pid):
                abandoned[run.id] = KILLED
        abandoned |= dict.fromkeys(ended & doubts.ended, MUTE)
        doubts.ended = ended
        for run_id, state in abandoned.items():
            await client.set_flow_run_state(run_id, state, force=True)
    return len(abandoned)


async def _count_silent(
    client: PrefectClient, work_pool: str, workers: set[str], silent: Counter[str]
) -> None:
    elsewhere = {name for name in workers if name and _host(name) != socket.gethostname()}
    offline = elsewhere - await _online(client, work_pool) if elsewhere else set()
    for name in silent.keys() - offline:
        del silent[name]
    silent.update(offline)


async def _runs_at_work(client: PrefectClient, work_pool: str) -> list[FlowRun]:
    at_work = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=AT_WORK)))
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[work_pool]))
    found: list[FlowRun] = []
    for offset in itertools.count(step=PAGE):
        runs = await client.read_flow_runs(
            flow_run_filter=at_work, work_pool_filter=pool, limit=PAGE, offset=offset
        )
        found += runs
        if len(runs) < PAGE:
            break
    return found


async def _online(client: PrefectClient, work_pool: str) -> set[str]:
    """Names of the workers that Prefect has heard of late."""
    online = WorkerFilter(status=WorkerFilterStatus(any_=[WorkerStatus.ONLINE.value]))
    return {one.name for one in await client.read_workers_for_work_pool(work_pool, online)}


def _host(worker: str) -> str:
    return worker.partition(" ")[0]


def is_abandoned(worker: str, run_pid: str | None) -> bool:
    """Whether both a run's process and its worker, by its name, were of this machine and have ended."""
    host, _, rest = worker.partition(" ")
    worker_pid, _, _ = rest.partition(" ")
    # One with our own pid is what this container ran before its restart.
    worker_lives = worker_pid != str(os.getpid()) and _lives(worker_pid)
    return host == socket.gethostname() and not worker_lives and not _lives(run_pid or "")


def _lives(pid: str) -> bool:
    """A zombie has ended, whether or not its parent takes note: in a container perhaps nobody does."""
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except (ValueError, psutil.NoSuchProcess):
        return False


def _check_clock(date: str | None) -> None:
    """Say that our clock is off that of the server, which answered at `date`."""
    behind = ahead_of_us(date).total_seconds()
    if behind > CLOCK_OFF:
        log.warning("this machine's clock is %.0f s behind Prefect's: runs start that late; use NTP", behind)
    elif behind < -CLOCK_OFF:
        log.warning("this machine's clock is %.0f s ahead of Prefect's: scheduled runs start early", -behind)


async def _wait_for_server(settings: Settings) -> None:
    async with httpx.AsyncClient(timeout=2, verify=trust(settings.ca_file)) as client:
        while True:
            try:
                answer = await client.get(f"{settings.prefect_api}/health")
                if answer.is_success:
                    return _check_clock(answer.headers.get("date"))
            except httpx.TransportError as error:
                why = unreachable(f"Prefect API {settings.prefect_api}", error)
                if isinstance(why, PermanentError):
                    raise why from error
                log.debug("%s", why)
            await asyncio.sleep(0.3)
