"""Flows that do what no flow should."""

import ctypes
import os
import signal
import subprocess
import sys
import time

from prefect import flow

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@flow
def eat_memory() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    eaten = []
    while True:
        eaten.append(b"x" * 50_000_000)


@flow
def hang() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    time.sleep(600)


@flow
def fork_without_end() -> None:
    while True:
        subprocess.Popen(SLEEPER)
        time.sleep(0.01)


@flow
def leave_processes_behind(name: str) -> None:
    """One of them in a group of its own, so that no signal to a group reaches it."""
    subprocess.Popen([*SLEEPER, name])
    subprocess.Popen([*SLEEPER, name], process_group=0)


@flow
def segfault() -> None:
    ctypes.string_at(0)


@flow
def leave() -> None:
    os._exit(3)
