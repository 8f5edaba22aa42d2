"""What one run may take: memory, time, processes. Looked at from outside: a run that hangs cannot tell.

A run's processes are one session: its own, and whatever it or a library has started.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MIB = 2**20
LOOK_SECONDS = 0.5
MOST_PROCESSES = 64
"""Of one run. joblib starts as many as there are cores."""
SHARE_OF_MACHINE = 0.75
"""That one run may take, unless set otherwise, and that all of a worker may take together."""
EVICTED = "Evicted"
"""As Kubernetes calls it. No state of `PERMANENT` in dropflow/prefect_api.py: others may be at fault."""
MOST_TRIES = 10
_CGROUP = Path("/sys/fs/cgroup/memory.max")
_WORST_FIRST = Path("/proc/self/oom_score_adj")


@dataclass(frozen=True)
class Limits:
    """`memory`: bytes of all processes together; `seconds`: from start to end."""

    memory: float
    seconds: float
    processes: int = MOST_PROCESSES


@dataclass(frozen=True)
class Excess:
    """A limit that was crossed. `name`: of the state the run ends in; `reason`: in words, with a remedy."""

    name: str
    reason: str


@dataclass
class MemoryBudget:
    """The bytes that runs at once may take together, and which runs there are."""

    memory: float
    runs: dict[int, list[psutil.Process]] = field(default_factory=dict)
    """Their processes, by the leader of each one's session."""

    def excess(self, leader: int) -> Excess | None:
        """Of this run, where it is the one to end."""
        runs = dict(self.runs)
        if sum(_resident(process) for members in runs.values() for process in members) <= self.memory:
            return None
        taken = {run: sum(map(_proportional, members)) for run, members in runs.items()}
        if run_to_evict(taken, self.memory) != leader:
            return None
        return Excess(
            EVICTED,
            f"took {taken[leader] / MIB:,.0f} MiB of memory, the most of {len(taken)} runs, which together "
            f"took more than the {self.memory / MIB:,.0f} MiB that runs at once may take, and was evicted; "
            "what has no receipt is delivered again. If that does not help, lower DROPFLOW_WORKER_LIMIT, or "
            "give the worker more memory",
        )


def run_to_evict(taken: Mapping[int, int], memory: float) -> int | None:
    """The run that takes most, where all together take more. One without others has a limit of its own."""
    if sum(taken.values()) <= memory or sum(map(bool, taken.values())) < 2:
        return None
    return max(taken, key=taken.__getitem__)


def memory_of_machine() -> int:
    """Bytes that this machine, or the container, has."""
    total = psutil.virtual_memory().total
    try:
        return min(total, int(_CGROUP.read_text()))
    except (OSError, ValueError):
        # No container with a limit ("max"), or no Linux.
        return total


def lead_session() -> None:
    """In a run's process: its own session, and the first to go where the whole machine lacks memory."""
    os.setsid()
    if _WORST_FIRST.exists():
        _WORST_FIRST.write_text("1000")


async def first_excess(
    pid: int, limits: Limits, ended: asyncio.Future[int], budget: MemoryBudget
) -> Excess | None:
    """Watch a run until it ends, or a limit is crossed: its own, or that of all together."""
    started = time.monotonic()
    try:
        while not (await asyncio.wait([ended], timeout=LOOK_SECONDS))[0]:
            if excess := await asyncio.to_thread(_excess, pid, limits, time.monotonic() - started, budget):
                return excess
    finally:
        budget.runs.pop(pid, None)
    return None


def _excess(pid: int, limits: Limits, seconds: float, budget: MemoryBudget) -> Excess | None:
    if seconds > limits.seconds:
        return Excess(
            "TimedOut",
            f"ran longer than {limits.seconds / 60:g} minutes and was ended; if it needs more, raise "
            "DROPFLOW_RUN_MINUTES, or `minutes` among the run's job variables",
        )
    members = list(_session(pid))
    if len(members) > limits.processes:
        return Excess("TooManyProcesses", f"started more than {limits.processes} processes and was ended")
    if sum(map(_resident, members)) > limits.memory and sum(map(_proportional, members)) > limits.memory:
        return Excess(
            "OutOfMemory",
            f"took more than {limits.memory / MIB:,.0f} MiB of memory and was ended; if it needs more, raise "
            "DROPFLOW_RUN_MEMORY_MIB, or `memory_mib` among the run's job variables",
        )
    budget.runs[pid] = members
    return budget.excess(pid)


def taken_by(leader: int) -> int:
    """Bytes of a run's processes; of what they share with others their part."""
    return sum(map(_proportional, _session(leader)))


def end_session(leader: int) -> None:
    """Kill what is left of a run's processes, also those that are being started meanwhile.

    One that the kernel does not let go of (waiting for a disk, for example) is left to it.
    """
    for _ in range(MOST_TRIES):
        left = [*_session(leader), *_alive(leader)]
        if not left:
            return
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(left, timeout=1)


def _session(leader: int) -> Iterator[psutil.Process]:
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader:
                yield from _alive(pid)
        except OSError:
            continue


def _alive(pid: int) -> Iterator[psutil.Process]:
    """The process, unless it has ended."""
    try:
        if (found := psutil.Process(pid)).status() != psutil.STATUS_ZOMBIE:
            yield found
    except psutil.Error:
        return


def _resident(process: psutil.Process) -> int:
    """Bytes, pages shared with the template included: cheap to ask for."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _proportional(process: psutil.Process) -> int:
    """Bytes, of shared pages the process's part."""
    try:
        full = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(full, "pss", full.rss))


def how_it_ended(code: int) -> str:
    """An exit code in words, with what it mostly means."""
    if code >= 0:
        return f"its process ended with exit code {code}: the worker's log may tell more"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    meaning = _MEANINGS.get(name, "")
    return f"its process was ended by {name}{meaning and f': {meaning}'}"


_MEANINGS = {
    "SIGSEGV": "a library read memory that is not its own; the file may be made for it, or a library broken",
    "SIGABRT": "a library gave up; the worker's log may tell more",
    "SIGBUS": "memory or disk that was not there; is the disk full?",
    "SIGFPE": "a library divided whole numbers by zero",
    "SIGILL": "a library is built for another processor",
    "SIGKILL": "somebody killed it, or the machine lacked memory",
    "SIGTERM": "somebody ended it",
}
