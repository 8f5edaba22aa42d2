"""A listener ends when it is told to, whatever hangs."""

import asyncio
import signal
import socket
import time
from pathlib import Path

import pytest
from command_line import LISTEN, started
from conftest import store_environment, wait_until

from dropflow.embedded.processes import LOOPBACK
from listeners.service import LONGEST_STOP, _set_or_after


def test_a_listener_whose_store_hangs_ends_in_time(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        environment = {
            "DROPFLOW_DATA_DIR": str(tmp_path / "data"),
            **store_environment(f"http://{LOOPBACK}:{silent.getsockname()[1]}"),
            "DROPFLOW_PREFECT_API_URL": f"http://{LOOPBACK}:9/api",
            "DROPFLOW_LISTEN_STREAM": "false",
        }
        with started(LISTEN, environment, tmp_path / "log") as process:
            silent.settimeout(60)
            connection, _ = silent.accept()
            with connection:
                wait_until(lambda: connection.recv(1, socket.MSG_PEEK), 10, "a request that is not answered")
                process.send_signal(signal.SIGTERM)
                began = time.monotonic()
                process.wait(LONGEST_STOP + 10)
    assert time.monotonic() - began < LONGEST_STOP + 5
    assert "not stopped after 9 s: ending at once" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("turns", range(4))
def test_a_loop_that_is_told_something_can_be_stopped_at_once(turns: int) -> None:
    """At whichever turn of asyncio's the cancellation comes after the event."""

    async def run() -> None:
        event = asyncio.Event()

        async def loop() -> None:
            while True:
                await _set_or_after(event, 60)
                event.clear()

        task = asyncio.create_task(loop())
        for _ in range(5):
            await asyncio.sleep(0)
        event.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        assert done

    asyncio.run(run())
