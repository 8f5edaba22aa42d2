"""The documents are followed as a newcomer would: in a fresh checkout, in one shell, from the first command to
the last. What a page shows of the output is compared with it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import wait_until
from documents import DOCUMENTS, Block, Command, blocks, commands_of, pattern

from dropflow.embedded.processes import free_port
from dropflow.settings import PROJECT, file_values

FOLLOWED = [PROJECT / "docs" / "tutorial.md", PROJECT / "README.md", PROJECT / "docs" / "operations.md"]
"""What the tutorial has shown already is not run again for the others."""

TERMINALS = {
    "dropflow up": "Ctrl-C stops everything",
    "python -m aiosmtpd --nosetuid --listen 127.0.0.1:1025 --class dropflow.demo.Letters": "Every message is shown here",
}
"""What runs until Ctrl-C has a terminal of its own; by this a reader sees that it is ready."""

DOCKER = "there is no Docker here: `test_what_is_declared_does_the_main_job_whoever_is_killed` runs what is declared"
CLUSTER = "nobody's cluster is to be touched: `test_the_example_can_be_built` builds what it would be given"
MINIO = (
    "the job `buckets` of `docker-compose.yaml` has it, which `tests/composing.py` runs where `mc` is on PATH"
)
TRACES = "`test_one_trace_from_notification_to_receipt_reaches_a_collector` has one"
DASK = "`test_a_cluster_prepares_every_object_once` has a scheduler and two workers of its own"
ELSEWHERE = {
    "make demo": "CI runs it after the tests (.ci/run)",
    "make test": "CI runs it (.ci/run): it is what runs this test",
    "dropflow listen": "`dropflow up` runs it as a process of its own",
    "dropflow worker": "`dropflow up` runs it as a process of its own",
    "docker compose up --detach --build": DOCKER,
    "docker compose exec listener-1 dropflow doctor": DOCKER,
    "kubectl create namespace dropflow": CLUSTER,
    "kubectl --namespace dropflow create secret generic worker --from-file=secrets/worker/": CLUSTER,
    "kubectl apply --kustomize my-overlay": CLUSTER,
    "kubectl --namespace dropflow exec deployment/listener -- dropflow doctor": CLUSTER,
    "kubectl --namespace dropflow port-forward service/prefect 4200": CLUSTER,
    "kubectl --namespace dropflow delete job apply --ignore-not-found": CLUSTER,
    "mc event add store/raw arn:minio:sqs::DROPFLOW:webhook --event put --ignore-existing": MINIO,
    "mc event add store/processed arn:minio:sqs::DROPFLOW:webhook --event put --prefix _receipts/ --ignore-existing": MINIO,
    "pip install 'dropflow[otel]'": "the development environment has every extra",
    "pip install 'dropflow[dask]'": "the development environment has every extra",
    "dask scheduler --host 10.0.0.5 --port 8786": DASK,
    "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False": DASK,
    "dask worker tcp://10.0.0.5:8786 --nthreads 2": DASK,
    "export DROPFLOW_DASK_SCHEDULER=tcp://10.0.0.5:8786": DASK,
    "export OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318": TRACES,
}
"""Commands that this test does not run, and who does."""

COPIED = ("automations", "datasets", "docs", "dropflow", "examples", "flows", "listeners", "notifications")
SECONDS = 240
"""A first start on a busy machine."""


def _heed_ctrl_c() -> None:
    """Whoever runs the tests in the background has them ignore it, and what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A program that runs until Ctrl-C, in the checkout; what it shows is in a file."""

    def __init__(self, command: str, checkout: Path, environment: dict[str, str]) -> None:
        self.command = command
        self._log = checkout / f"terminal-{command.split(maxsplit=1)[0]}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["/bin/bash", "-c", f". .venv/bin/activate && exec {command}"],
                cwd=checkout,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - takes no lock
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, what: Callable[[str], object]) -> None:
        def seen() -> bool:
            assert self._process.poll() is None, self.output
            return bool(what(self.output))

        wait_until(seen, SECONDS, f"{self.command}: {self.output[-2000:]!r}")

    def stop(self) -> None:
        """Ctrl-C."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
            try:
                self._process.wait(SECONDS)
            finally:
                self._process.kill()


class Shell:
    """One bash that is told one command after the other."""

    MARK = "--- exit code:"

    def __init__(self, checkout: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["/bin/bash"],
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Exit code and output."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{command}\necho '{self.MARK}' $?\n")
        self._process.stdin.flush()
        output = ""
        for line in self._process.stdout:
            before, mark, code = line.partition(self.MARK)
            output += before
            if mark:
                return int(code), output
        pytest.fail(f"the shell ended at {command!r}: {output}")

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Newcomer:
    """Someone with a fresh checkout who does what the pages say."""

    def __init__(self, checkout: Path) -> None:
        self._checkout = checkout
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(checkout),
            "LANG": "C.UTF-8",
            "COLUMNS": "120",
            # Else the checkout that the tests run in would be used, which .venv knows.
            "PYTHONPATH": str(checkout),
            "PYTHONUNBUFFERED": "1",
        }
        self._shell = Shell(checkout, self._environment)
        self._terminals: dict[str, Terminal] = {}
        self._smtp = f"127.0.0.1:{free_port()}"
        self.done: list[str] = []

    def read(self, document: Path) -> None:
        """Do what the page says, but for what another page has said before."""
        known = set(self.done)
        for block in blocks(document):
            self._follow(block, known)

    def _follow(self, block: Block, known: set[str]) -> None:
        output = ""
        for command in block.commands:
            if command.text in ELSEWHERE or command.text in known:
                continue
            self.done.append(command.text)
            if command.text in TERMINALS:
                self._open(command.text)
            else:
                output += self._run(command)
        if not block.shown:
            return
        if block.commands and block.commands[-1].text not in TERMINALS:
            assert pattern(block.shown).fullmatch(output), output
        else:
            last = list(self._terminals.values())[-1]
            last.wait_for(pattern(block.shown).search)

    def leave(self) -> None:
        self._shell.stop()
        for terminal in reversed(self._terminals.values()):
            terminal.stop()

    def _run(self, command: Command) -> str:
        code, output = self._shell.run(self._meant(command.text))
        assert code == command.code, f"{command.text}\n{output}"
        assert "Traceback" not in output
        return output

    def _open(self, command: str) -> None:
        if running := self._terminals.pop(command, None):
            running.stop()
        terminal = Terminal(self._meant(command), self._checkout, self._environment)
        self._terminals[command] = terminal
        terminal.wait_for(lambda output: TERMINALS[command] in output)

    def _meant(self, text: str) -> str:
        """The command with what is here for what a page can only give as an example."""
        stack = {
            name.removeprefix("DROPFLOW_"): value
            for name, value in file_values(self._checkout / ".dropflow" / "stack.env").items()
        }
        here = {
            "127.0.0.1:1025": self._smtp,
            "slack://TokenA/TokenB/TokenC mailto://user:password@example.com": f"mailto://{self._smtp}?from=a@b.c&to=d@e.f",
            "https://minio.example.com": stack.get("S3_ENDPOINT"),
            "ACCESS_KEY=...": f"ACCESS_KEY={stack.get('S3_ACCESS_KEY')}",
            "SECRET_KEY=...": f"SECRET_KEY={stack.get('S3_SECRET_KEY')}",
            "https://prefect.example.com/api": stack.get("PREFECT_API_URL"),
            "PREFECT_AUTH=...": f"PREFECT_AUTH={stack.get('PREFECT_AUTH')}",
            # The ledger is not lost: another one is.
            "dropflow restore": "DROPFLOW_LEDGER_URL=sqlite:///another.sqlite dropflow restore",
        }
        for example, value in here.items():
            text = text.replace(example, str(value))
        return text


@pytest.fixture
def newcomer() -> Iterator[Newcomer]:
    # Not below pytest's own folder, which other accounts cannot enter: PostgreSQL runs as one of them
    # where the tests run as root.
    checkout = Path(tempfile.mkdtemp(prefix="dropflow-checkout-"))
    checkout.chmod(0o711)
    for name in COPIED:
        shutil.copytree(PROJECT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / ".venv").symlink_to(sys.prefix)
    newcomer = Newcomer(checkout)
    yield newcomer
    newcomer.leave()
    shutil.rmtree(checkout)


@pytest.mark.stack
@pytest.mark.timeout(1000)
def test_a_newcomer_gets_through_the_documents(newcomer: Newcomer) -> None:
    for document in FOLLOWED:
        newcomer.read(document)
    assert len(newcomer.done) > 30


def test_every_command_of_every_document_is_run_here_or_said_where() -> None:
    everywhere = {command for document in DOCUMENTS for command in commands_of(document)}
    followed = {command for document in FOLLOWED for command in commands_of(document)}
    assert everywhere - followed - ELSEWHERE.keys() == set(), "have it followed, or say who runs it"
    assert {*ELSEWHERE, *TERMINALS} <= everywhere, "nobody shows it any more"
    assert not [one for one in followed - ELSEWHERE.keys() if one.startswith(("docker", "kubectl", "pip"))]
    tests = "".join(path.read_text() for path in (PROJECT / "tests").glob("test_*.py"))
    for reason in ELSEWHERE.values():
        assert all(f"def {name}(" in tests for name in re.findall(r"`(test_\w+)`", reason)), reason
