"""What the embedded stack starts: commands, environments, ports and supervision."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from conftest import wait_until

from dropflow.datasets import Datasets
from dropflow.embedded.processes import Process, ProcessError, Supervisor, free_port
from dropflow.embedded.stack import Stack
from dropflow.embedded.stores import StoreAccess, Webhook, seaweedfs
from dropflow.errors import SettingsError
from dropflow.settings import load_settings

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def process(tmp_path: Path, *command: str) -> Process:
    return Process("thing", list(command), {}, tmp_path / "thing.log", ready=lambda: False)


def test_seaweedfs_is_on_loopback_names_every_port_and_keeps_secrets_out_of_its_arguments(
    tmp_path: Path,
) -> None:
    access = StoreAccess(5, "the-access-key", "the-secret-key")
    webhook = Webhook(
        "http://127.0.0.1:9/notifications", "the-token", [("raw", ""), ("processed", "_receipts/")]
    )
    command, environment = seaweedfs(tmp_path, access, [1, 2, 3, 4], webhook)
    assert {"-ip.bind=127.0.0.1", "-s3.port=5", "-filer.port=3", "-master.telemetry=false"} <= set(command)
    assert not [word for word in command if "the-" in word]
    # SeaweedFS splits at spaces; with commas it tells of nothing at all.
    assert (
        environment["WEED_NOTIFICATION_WEBHOOK_PATH_PREFIXES"]
        == "/buckets/raw/ /buckets/processed/_receipts/"
    )
    assert all(environment[f"WEED_JWT_{name}SIGNING_KEY"] for name in ("", "FILER_"))


def test_a_free_port_is_the_wanted_one_unless_it_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_no_outgoing_connection_takes_a_free_port_before_its_server() -> None:
    """Nor the one 10,000 above, where SeaweedFS listens, too: Linux's own begin at 32768."""
    found = {free_port() for _ in range(20)}
    assert max(found) + 10_000 < 32_768
    assert len(found) > 15, "stacks that start at once do not choose the same"


def test_a_killed_process_is_started_again_and_stopped_at_the_end(tmp_path: Path) -> None:
    supervisor = Supervisor()
    sleeper = process(tmp_path, *SLEEP)
    supervisor.start(sleeper)
    first = sleeper.pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: sleeper.restarts == 1)
    second = sleeper.pid
    assert second != first
    supervisor.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_a_process_that_cannot_start_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    supervisor = Supervisor()
    broken = process(tmp_path, sys.executable, "-c", "raise SystemExit('the reason why')")
    supervisor.start(broken)
    with pytest.raises(ProcessError, match=r"keeps ending while it starts.*the reason why"):
        broken.wait_ready(30)
    supervisor.stop()


def test_a_program_that_vanishes_does_not_end_the_supervision_of_others(tmp_path: Path) -> None:
    supervisor = Supervisor()
    vanishing, other = process(tmp_path, *SLEEP), process(tmp_path, *SLEEP)
    other.name = "other"
    supervisor.start(vanishing)
    supervisor.start(other)
    vanishing.command = [str(tmp_path / "gone")]
    os.kill(vanishing.pid, signal.SIGKILL)
    wait_until(lambda: vanishing.restarts >= 1)
    os.kill(other.pid, signal.SIGKILL)
    wait_until(lambda: other.restarts == 1)
    supervisor.stop()


def test_without_minio_on_path_store_minio_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dropflow.embedded.stores import minio

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="`minio` or `silo` on PATH"):
        minio(tmp_path, StoreAccess(1, "a", "b"), Webhook("u", "t", []))


def test_a_chosen_store_or_server_is_never_started(tmp_path: Path) -> None:
    assert Stack(load_settings(tmp_path)).embedded
    assert not Stack(load_settings(tmp_path, s3_endpoint="http://127.0.0.1:9")).embedded
    assert not Stack(load_settings(tmp_path, prefect_api_url="http://127.0.0.1:9/api")).embedded


@pytest.mark.parametrize(
    ("host", "called"),
    [
        ("127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104 - nothing is bound
        ("::1", "[::1]"),
    ],
)
def test_the_store_is_told_where_the_listener_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, called: str
) -> None:
    port = free_port()
    monkeypatch.setenv("DROPFLOW_WEBHOOK_HOST", host)
    monkeypatch.setenv("DROPFLOW_WEBHOOK_PORT", str(port))
    stack, started = Stack(load_settings(tmp_path)), []
    monkeypatch.setattr(Supervisor, "start", lambda _, process: started.append(process))
    stack.supervisor = Supervisor()
    stack._save(Datasets({}))
    (store,) = started
    endpoint = store.environment["WEED_NOTIFICATION_WEBHOOK_ENDPOINT"]
    assert endpoint == f"http://{called}:{port}/notifications"
