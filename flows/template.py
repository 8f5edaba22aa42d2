"""The template process: it has imported everything, and runs are forked from it."""

import asyncio
import multiprocessing
import os
import signal
import sysconfig
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from dropflow.settings import PROJECT, WorkerStart

PRELOAD = ["flows.warm"]
CODE = ("dropflow", "flows")

_children = threading.Lock()
"""Starting a process polls all others; were one joined meanwhile, its exit code would be read twice."""


class Template:
    """Starts processes by Python's forkserver.

    When the code has changed it is made anew as soon as no process of it is left, whose ends it tells;
    until then, and where `start` is "spawn", processes import everything themselves.
    """

    def __init__(self, start: WorkerStart = "fork") -> None:
        self._forkserver = multiprocessing.get_context("forkserver")
        self._forkserver.set_forkserver_preload(PRELOAD)
        self._spawn = multiprocessing.get_context("spawn")
        self._start: WorkerStart = start
        self._code = _code()

    def warm_up(self) -> None:
        """Have everything imported, before the first run asks for it."""
        if self._start == "fork":
            process = self._forkserver.Process(target=os.getpid)
            process.start()
            process.join()

    def start(self, target: Callable[..., None], *arguments: Any) -> BaseProcess:
        """Start a process; blocks until it is there."""
        with _children:
            if self._start == "fork" and (code := _code()) != self._code and not _at_work():
                _end_forkserver()
                self._code = code
            is_fresh = self._start == "fork" and self._code == _code()
            context = self._forkserver if is_fresh else self._spawn
            process = context.Process(target=target, args=arguments)
            process.start()
        return process


async def exit_code(process: BaseProcess) -> int:
    """Wait for the process's sentinel without a thread or polling."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(process.sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process.sentinel)
    with _children:
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _at_work() -> bool:
    return bool(multiprocessing.active_children())


def _code() -> dict[str, int]:
    """When each file of ours, and the folder of the libraries, was changed."""
    files = [path for package in CODE for path in (PROJECT / package).rglob("*.py")]
    found = {}
    for path in [*files, Path(sysconfig.get_paths()["purelib"])]:
        try:
            found[str(path)] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return found


def _end_forkserver() -> None:
    """The next process that is started starts another one: `multiprocessing` looks whether it lives."""
    for child in psutil.Process().children():
        if any("multiprocessing.forkserver" in part for part in child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)
            # Not reaped: that is left to `multiprocessing`.
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
