"""Which runs a killed worker has left, and how it shows that it lives. The rest is tested in the real stack."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from uuid import UUID, uuid4

import pytest
from conftest import wait_until
from prefect.client.schemas.objects import State

from dropflow.errors import PermanentError
from dropflow.settings import Settings
from flows import worker
from flows.alive import touch_for_ever
from flows.limits import EVICTED, Excess, Limits
from flows.steps import own_function
from flows.worker import Doubts, WarmWorker, is_abandoned, mark_crashed_runs, worker_name

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


def is_touched(file: Path, since: float) -> bool:
    return file.exists() and file.stat().st_mtime > since


def test_a_worker_that_lives_touches_its_file_and_one_that_hangs_does_not(tmp_path: Path) -> None:
    file = tmp_path / "worker.alive"

    async def touched() -> None:
        start = time.time()
        touching = asyncio.create_task(touch_for_ever(file, seconds=0.05))
        for _ in range(2):
            await asyncio.to_thread(wait_until, lambda since=start: is_touched(file, since))
            start = file.stat().st_mtime
        time.sleep(0.3)  # the loop hangs
        assert time.time() - file.stat().st_mtime > 0.25
        touching.cancel()

    asyncio.run(touched())


def test_a_folder_that_cannot_be_written_to_does_not_end_the_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def try_it() -> None:
        touching = asyncio.create_task(touch_for_ever(tmp_path / "missing" / "worker.alive", seconds=0.01))
        await asyncio.to_thread(wait_until, lambda: len(caplog.records) > 1)
        touching.cancel()

    asyncio.run(try_it())
    assert "cannot be touched" in caplog.text


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
    doubts = Doubts()
    assert asyncio.run(mark_crashed_runs("pool", own, doubts)) == 0
    assert client.crashed == []
    assert asyncio.run(mark_crashed_runs("pool", own, doubts)) == 1
    assert client.crashed == [mute.id]


def test_the_place_of_an_evicted_run_stays_taken_while_those_beside_it_are_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Begun anew at once, it would meet the same runs."""
    reported: list[str] = []

    async def watched(*_: object) -> tuple[int, Excess]:
        return -9, Excess(EVICTED, "took the most")

    async def report(_flow_run: object, state: State[Any]) -> None:
        reported.append(state.name or "")

    async def ends() -> None:
        mine = WarmWorker(work_pool_name="p", settings=Settings())
        monkeypatch.setattr(mine._template, "start", lambda *_: SimpleNamespace(pid=NOBODY))
        monkeypatch.setattr(mine, "_watched", watched)
        monkeypatch.setattr(mine, "_report", report)
        mine._at_work.add(1)
        configuration = SimpleNamespace(env={}, labels={}, limits=lambda _: Limits(1, 1))
        run = asyncio.create_task(mine.run(SimpleNamespace(id=uuid4()), configuration))  # type: ignore[arg-type]
        await asyncio.sleep(0.5)
        assert (reported, run.done()) == ([EVICTED], False)
        mine._at_work.clear()
        await asyncio.wait_for(run, 5)

    asyncio.run(ends())


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(600, "600 s behind Prefect's: runs start that late"), (-600, "600 s ahead of Prefect's"), (1, "")],
)
def test_a_clock_that_is_off_is_told_when_the_worker_starts(
    seconds: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
    worker._check_clock(format_datetime(theirs, usegmt=True))
    worker._check_clock(None)
    assert [told in message.replace("599", "600").replace("601", "600") for message in caplog.messages] == (
        [True] if told else []
    )


def test_a_module_beside_datasets_is_found_and_stands_in_for_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trips.py").write_text("def clean(frame): return frame")
    (tmp_path / "json.py").write_text("raise SystemExit('taken over')")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(worker, "_work", lambda _: asyncio.sleep(0))
    with pytest.raises(PermanentError, match="beside the folder datasets/"):
        own_function("trips:clean")
    worker.run_worker(Settings(datasets_dir=tmp_path / "datasets"))
    monkeypatch.delitem(sys.modules, "json")
    assert own_function("trips:clean")("frame") == "frame"
    assert own_function("json:loads")("[]") == []
