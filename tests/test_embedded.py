"""What the embedded stack starts: commands, environments, ports and supervision."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import wait_until
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import SecretStr

from dropflow.datasets import Datasets
from dropflow.embedded.certificates import make_certificates
from dropflow.embedded.database import Database
from dropflow.embedded.environment import inherited
from dropflow.embedded.processes import Process, ProcessError, Supervisor, free_port
from dropflow.embedded.stack import Stack, _lock
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
    assert "-disableHttp" in command
    assert not [word for word in command if "the-" in word]
    # SeaweedFS splits at spaces; with commas it tells of nothing at all.
    assert (
        environment["WEED_NOTIFICATION_WEBHOOK_PATH_PREFIXES"]
        == "/buckets/raw/ /buckets/processed/_receipts/"
    )
    keys = {environment[f"WEED_JWT_{name}KEY"] for name in ("SIGNING_", "SIGNING_READ_", "FILER_SIGNING_")}
    assert len(keys | {environment["WEED_JWT_FILER_SIGNING_READ_KEY"]}) == 4


def test_certificates_are_signed_by_an_authority_whose_key_is_kept_nowhere(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    authority, certificate = (
        x509.load_pem_x509_certificate(path.read_bytes()) for path in (made.authority, made.certificate)
    )
    certificate.verify_directly_issued_by(authority)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    assert set(kept) == {"authority.pem", "certificate.pem", "key.pem"}
    key = serialization.load_pem_private_key(kept["key.pem"], None)
    assert key.public_key() == certificate.public_key() != authority.public_key()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "tls").iterdir()} == {0o600}


def test_what_an_earlier_version_left_open_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "seaweedfs").mkdir(parents=True)
    for name in ("ledger.sqlite", "theirs"):
        (folder / name).write_text("names")
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    with _lock(folder):
        pass
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (folder, *folder.iterdir())}
    ours = {"seaweedfs": "0o700", "ledger.sqlite": "0o700", "up.lock": "0o600"}
    assert modes == {"data": "0o755", "theirs": "0o755", **ours}, "what is not ours is left as it is"


def test_a_second_stack_changes_nothing_of_the_first(tmp_path: Path) -> None:
    with _lock(tmp_path / "data"):
        (tmp_path / "data").chmod(0o711)
        with pytest.raises(SettingsError, match="a stack is running in"):
            _lock(tmp_path / "data")
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o711


def test_a_process_is_given_what_it_reads_and_no_secret_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DROPFLOW_NOTIFY_URLS", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PREFECT_API_KEY"):
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    shown = "import os; print(dict(os.environ), flush=True); import time; time.sleep(60)"
    child = Process("child", [sys.executable, "-c", shown], {"OWN": "yes"}, tmp_path / "log", lambda: True)
    child.start()
    try:
        told = wait_until((tmp_path / "log").read_text)
    finally:
        child.stop()
    assert "hush" not in told
    assert "'OWN': 'yes'" in told
    assert "'LC_ALL': 'C.UTF-8'" in told


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Process]:
    """The processes of a stack whose user has set secrets of several parts; none of them runs."""
    for name in ("NOTIFY_URLS", "PAGE_TOKEN", "WEBHOOK_TOKEN"):
        monkeypatch.setenv(f"DROPFLOW_{name}", f"json://hush-hush-{name}")
    monkeypatch.setenv("DROPFLOW_PREFECT_AUTH", "me:it's #1 ${HOME}")
    monkeypatch.setenv("MY_OWN", "for my own code")
    processes: dict[str, Process] = {}
    monkeypatch.setattr(Supervisor, "start", lambda _, process: processes.setdefault(process.name, process))
    monkeypatch.setattr("dropflow.embedded.stack.embedded_database", lambda _: Database("SQLite"))
    stack = Stack(load_settings(tmp_path))
    stack.supervisor = Supervisor()
    stack._save(Datasets({}))
    stack._start_server()
    stack._start_worker()
    stack._start_listener()
    # As the next command finds it.
    assert load_settings(tmp_path).prefect_auth == SecretStr("me:it's #1 ${HOME}")
    return processes


def test_the_server_that_up_starts_asks_for_the_password_that_was_set(started: dict[str, Process]) -> None:
    assert started["prefect"].environment["PREFECT_SERVER_API_AUTH_STRING"] == "me:it's #1 ${HOME}"
    for name in ("worker", "listener"):
        assert started[name].environment["DROPFLOW_PREFECT_AUTH"] == "me:it's #1 ${HOME}"


def test_secrets_go_where_they_are_read(started: dict[str, Process]) -> None:
    def holders(name: str) -> set[str]:
        return {process.name for process in started.values() if name in process.environment}

    for name in ("NOTIFY_URLS", "PAGE_TOKEN", "WEBHOOK_TOKEN"):
        assert holders(f"DROPFLOW_{name}") == {"listener"}
    assert holders("DROPFLOW_S3_SECRET_KEY") == {"listener", "worker"}
    assert holders("MY_OWN") == {"worker"}


def test_a_file_in_the_current_folder_stands_in_for_no_module(
    tmp_path: Path, started: dict[str, Process]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "dropflow.py").write_text("raise SystemExit('taken over')")
    (elsewhere / "prefect.py").write_text("raise SystemExit('taken over')")
    for name in ("worker", "listener", "prefect"):
        process = started[name]
        done = subprocess.run(
            [*process.command[:3], "--help"],
            env={**inherited(), **process.environment},
            cwd=elsewhere,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


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
