"""Which run is ended where several together take too much memory. One run's limits: test_stack_limits.py."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from dropflow.prefect_api import PERMANENT
from flows import limits
from flows.limits import EVICTED, MIB, Excess, Limits, MemoryBudget, end_session, first_excess, run_to_evict

ALONE = Limits(memory=1000 * MIB, seconds=60)


@pytest.mark.parametrize(
    ("taken", "ended"),
    [
        ({}, None),
        ({1: 101}, None),
        ({1: 60, 2: 40}, None),
        ({1: 60, 2: 41}, 1),
        ({1: 20, 2: 50, 3: 31}, 2),
        # What has ended meanwhile takes nothing, and is no company.
        ({1: 0, 2: 101}, None),
    ],
)
def test_of_runs_that_together_take_too_much_the_one_that_takes_most_is_ended(
    taken: dict[int, int], ended: int | None
) -> None:
    assert run_to_evict(taken, 100) == ended


def test_an_evicted_run_is_tried_again() -> None:
    assert EVICTED not in PERMANENT


@contextmanager
def holding(mebibytes: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a session, holds so much memory, and ends when it is told to."""
    program = f"held = b'x' * {mebibytes * MIB}; print(flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdin
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


async def watched(processes: list[subprocess.Popen[bytes]], memory: int) -> list[Excess | None]:
    """What each has crossed. What is too much is ended; once somebody is, the others may end by themselves."""
    budget = MemoryBudget(memory * MIB)

    async def watch(process: subprocess.Popen[bytes]) -> Excess | None:
        ended = asyncio.ensure_future(asyncio.to_thread(process.wait))
        excess = await first_excess(process.pid, ALONE, ended, budget)
        if excess:
            end_session(process.pid)
            await asyncio.sleep(20 * limits.LOOK_SECONDS)
            for other in processes:
                assert other.stdin
                if other is not process:
                    assert other.poll() is None
                    other.communicate(b"\n")
        await ended
        return excess

    watches = [asyncio.ensure_future(watch(process)) for process in processes]
    if len(processes) == 1:
        await asyncio.sleep(20 * limits.LOOK_SECONDS)
        assert not watches[0].done()
        processes[0].communicate(b"\n")
    found = await asyncio.gather(*watches)
    assert not budget.runs
    return found


@pytest.mark.parametrize(("sizes", "ended"), [([30, 150, 90], 1), ([200], None)])
def test_runs_at_once_stay_below_the_memory_that_they_may_take_together(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], ended: int | None
) -> None:
    monkeypatch.setattr(limits, "LOOK_SECONDS", 0.05)
    with ExitStack() as stack:
        processes = [stack.enter_context(holding(size)) for size in sizes]
        found = asyncio.run(watched(processes, 180))
    assert [number for number, excess in enumerate(found) if excess] == ([] if ended is None else [ended])
    for excess in filter(None, found):
        assert excess.name == EVICTED
        # Two are enough: the first look at the third may still be to come.
        assert re.search(r"the most of [23] runs, which together took more than the 180 MiB", excess.reason)
