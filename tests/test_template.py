"""The template: runs are forked from it, and never from one whose code is old."""

import asyncio
import os
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from waiting import wait_for

from flows import template
from flows.template import Template, exit_code


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the project's code, in a project that is quick to import."""
    module = tmp_path / "flows" / "module.py"
    module.parent.mkdir()
    module.write_text("")
    monkeypatch.setattr(template, "PROJECT", tmp_path)
    monkeypatch.setattr(template, "PRELOAD", [])
    return module


def parent_of(process: BaseProcess) -> int:
    assert process.pid
    return psutil.Process(process.pid).ppid()


def ended(process: BaseProcess) -> int:
    return asyncio.run(exit_code(process))


def test_processes_are_forked_from_one_template_until_the_code_changes(code: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    made = Template()
    first, second = (made.start(wait_for, go) for _ in range(2))
    forked_from = parent_of(first)
    assert parent_of(second) == forked_from != os.getpid()

    code.write_text("changed = True")
    # Two are at work, whose ends their template tells: this one imports everything itself.
    third = made.start(wait_for, go)
    assert parent_of(third) == os.getpid()
    go.touch()
    assert [ended(process) for process in (first, second, third)] == [0, 0, 0]

    go.unlink()
    fourth = made.start(wait_for, go)
    anew = parent_of(fourth)
    assert anew not in (os.getpid(), forked_from)
    assert not psutil.pid_exists(forked_from)
    fifth = made.start(wait_for, go)
    assert parent_of(fifth) == anew
    go.touch()
    assert [ended(process) for process in (fourth, fifth)] == [0, 0]


def test_spawn_needs_no_template(code: Path, tmp_path: Path) -> None:
    made = Template("spawn")
    made.warm_up()
    process = made.start(wait_for, tmp_path / "go")
    assert parent_of(process) == os.getpid()
    (tmp_path / "go").touch()
    assert ended(process) == 0


def test_how_a_process_ends_is_told(code: Path) -> None:
    assert ended(Template("spawn").start(os._exit, 3)) == 3
    assert ended(Template().start(os.abort)) == -6
