"""Child processes that are kept running: started, watched, restarted, stopped."""

import ctypes
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from dropflow.embedded.environment import inherited
from dropflow.embedded.private import UMASK
from dropflow.errors import DropflowError

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
STOP_SECONDS, ANSWER_SECONDS = 10.0, 2.0
POLL_SECONDS = 0.2
FIRST_RESTART, LONGEST_RESTART = 0.2, 10.0
CALM_SECONDS = 30.0
"""A process that ran this long has its restart delay forgotten."""
MOST_FALSE_STARTS = 3
_PR_SET_PDEATHSIG = 1


class ProcessError(DropflowError):
    """A process did not become ready."""


def answers(url: str) -> bool:
    """Whether a process serves this, and calls it well."""
    try:
        return httpx.get(url, timeout=ANSWER_SECONDS).is_success
    except httpx.TransportError:
        return False


PORTS = range(10_000, 22_768)
"""Below those of outgoing connections (from 32768 on Linux), any of which may take a port that was found free
before its server has started. SeaweedFS listens 10,000 above its own, too."""
TRIES = 100


def free_port(wanted: int | None = None) -> int:
    """`wanted` if it is free on loopback, else another one of PORTS, by chance."""
    others = random.SystemRandom().sample(PORTS, TRIES)
    for port in [wanted, *others] if wanted else others:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((LOOPBACK, port))
                return port
    raise ProcessError("no free port on 127.0.0.1")


# Loaded before any fork: a child of a threaded process must not load libraries.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Linux: end this child when the thread that started it ends, so that no port stays taken."""
    if _libc:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Process:
    """One supervised command; its output goes to `log_file`.

    Of our own environment it gets what any program may be told, besides `environment`.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    log_file: Path
    ready: Callable[[], bool]
    user: str | None = None
    """The account it runs under; None: ours."""
    restarts: int = 0
    _child: subprocess.Popen[bytes] | None = None
    _started: float = 0.0
    _delay: float = FIRST_RESTART
    _restart_at: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        self.log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log_file.open("ab") as output:
            self._child = subprocess.Popen(
                self.command,
                env={**inherited(), **self.environment},
                umask=UMASK,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.user,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - takes no lock, allocates nothing shared
            )
        self._started = time.monotonic()

    def wait_ready(self, seconds: float) -> None:
        """Raises ProcessError with the end of the log when it is not ready in time."""
        deadline = time.monotonic() + seconds
        while not self.ready():
            if self.restarts >= MOST_FALSE_STARTS:
                raise ProcessError(f"{self.name} keeps ending while it starts; {self._last_words()}")
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} was not ready in {seconds:.0f} s; {self._last_words()}")
            time.sleep(0.05)

    def check(self) -> None:
        """Start the process again if it has died; later and later when it keeps dying."""
        with self._lock:
            if self._child is None or self._child.poll() is None:
                return
            now = time.monotonic()
            if self._restart_at is None:
                if now - self._started > CALM_SECONDS:
                    self._delay = FIRST_RESTART
                self._restart_at = now + self._delay
                self._delay = min(2 * self._delay, LONGEST_RESTART)
                log.warning(
                    "%s ended with code %s; starting it again; %s",
                    self.name,
                    self._child.returncode,
                    self._last_words(),
                )
            if now >= self._restart_at:
                self._restart_at = None
                try:
                    self.start()
                except OSError as error:
                    log.warning("%s could not be started: %s", self.name, error)
                # Last, so that whoever sees the count sees the new process.
                self.restarts += 1

    def stop(self) -> None:
        """SIGTERM to the process group, SIGKILL after STOP_SECONDS."""
        with self._lock:
            child, self._child = self._child, None
        if child is None:
            return
        for number, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            try:
                os.killpg(child.pid, number)
                child.wait(patience)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                log.warning("%s did not stop in %.0f s", self.name, patience)
            else:
                break
        child.wait()

    def _last_words(self) -> str:
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(0, self.log_file.stat().st_size - 4096))
                lines = file.read().decode(errors="replace").strip().splitlines()[-3:]
        except OSError:
            lines = []
        return f"log {self.log_file}: {' | '.join(lines)[-500:]}"


class Supervisor:
    """Keeps processes running from a thread until stopped."""

    def __init__(self) -> None:
        self.processes: dict[str, Process] = {}
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def start(self, process: Process) -> None:
        process.start()
        self.processes[process.name] = process

    def stop(self) -> None:
        """Stop all, the last started first."""
        self._stopping.set()
        for process in reversed(list(self.processes.values())):
            process.stop()
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            for process in list(self.processes.values()):
                process.check()
        # What this thread started would be ended with it: it stays until all are stopped in order.
        self._stopped.wait()
