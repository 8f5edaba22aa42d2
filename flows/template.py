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
        self._forked: list[BaseProcess] = []

    def warm_up(self) -> None:
        """Have everything imported, before the first run asks for it."""
        if self._start == "fork":
            process = self._forkserver.Process(target=os.getpid)
            process.start()
            process.join()

    def start(self, target: Callable[..., None], *arguments: Any) -> BaseProcess:
        """Start a process; blocks until it is there."""
        with _children:
            if self._start == "fork" and self._is_fresh():
                process: BaseProcess = self._forkserver.Process(target=target, args=arguments)
                self._forked.append(process)
            else:
                process = self._spawn.Process(target=target, args=arguments)
            process.start()
        return process

    def _is_fresh(self) -> bool:
        """Whether the template's code is the one that is there; it is made so where none of it is at work."""
        self._forked = [process for process in self._forked if process.is_alive()]
        code = _code()
        if code != self._code and not self._forked:
            _end_forkserver()
            self._code = code
        return code == self._code


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
        if any("multiprocessing.forkserver" in part for part in _command(child)):
            os.kill(child.pid, signal.SIGKILL)
            # Not reaped: that is left to `multiprocessing`.
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
