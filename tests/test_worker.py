"""Which runs a killed worker has left. The rest of the worker is tested in the real stack."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Self
from uuid import UUID, uuid4

import pytest

from flows import worker
from flows.worker import is_abandoned, mark_crashed_runs, worker_name

NOBODY = 2**31 - 1
"""Above every pid that Linux or macOS gives."""


@pytest.fixture
def zombie() -> Iterator[int]:
    """A process that was killed and whose parent, this one, takes no note of it."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()
    assert process.stdin
    process.stdin.close()


def test_a_run_is_abandoned_once_its_worker_and_its_own_process_have_ended() -> None:
    ended = worker_name(NOBODY)
    assert is_abandoned(ended, None)
    assert is_abandoned(ended, str(NOBODY))
    assert not is_abandoned(ended, str(os.getppid()))
    assert not is_abandoned(worker_name(os.getppid()), str(NOBODY))


def test_a_zombie_has_ended(zombie: int) -> None:
    assert is_abandoned(worker_name(zombie), str(zombie))


def test_a_worker_of_the_same_pid_ran_before_this_container_was_restarted() -> None:
    assert is_abandoned(worker_name(os.getpid()), str(NOBODY))
    assert worker_name(os.getpid()) != worker_name(os.getpid())


@pytest.mark.parametrize("name", ["", "elsewhere 1 ab12cd", f"not{socket.gethostname()} {NOBODY} ab12cd"])
def test_runs_of_other_machines_are_left_alone(name: str) -> None:
    assert not is_abandoned(name, str(NOBODY))


def test_a_name_without_a_pid_is_of_no_living_worker_here() -> None:
    assert is_abandoned(socket.gethostname(), "not a pid")


class Client:
    """Of a Prefect that has these runs at work."""

    def __init__(self, *runs: Any) -> None:
        self._runs = list(runs)
        self.crashed: list[UUID] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def read_flow_runs(self, **_: object) -> list[Any]:
        return self._runs

    async def set_flow_run_state(self, run_id: UUID, _state: object, *, force: bool) -> None:
        assert force
        self.crashed.append(run_id)


def test_an_own_run_that_ended_without_a_word_is_marked_at_the_second_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the first its last words may be on their way."""
    own = worker_name(os.getpid())

    def run(pid: int | None) -> Any:
        name = {"prefect.worker.name": own}
        return SimpleNamespace(id=uuid4(), labels=name, infrastructure_pid=str(pid) if pid else None)

    mute, working, starting = run(NOBODY), run(os.getpid()), run(None)
    client = Client(mute, working, starting)
    monkeypatch.setattr(worker, "get_client", lambda: client)
    assert asyncio.run(mark_crashed_runs("pool", own)) == (0, {mute.id})
    assert client.crashed == []
    assert asyncio.run(mark_crashed_runs("pool", own, {mute.id})) == (1, {mute.id})
    assert client.crashed == [mute.id]
