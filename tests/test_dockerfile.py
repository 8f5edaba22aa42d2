"""The Dockerfile, as far as it can be judged without Docker. `make image` runs its steps."""

import re
import subprocess
import sys
from pathlib import Path

import dockerfile
from dockerfile import Stage, context, reaches_the_build, stages

from dropflow.settings import PROJECT, SECRETS

LAST = stages()[-1]


def copied(stage: Stage) -> list[str]:
    """Of the checkout."""
    lines = [one.words for one in stage.instructions if one.name == "COPY"]
    return [name for words in lines if not words[0].startswith("--") for name in words[:-1]]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--no-color", dockerfile.FILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_all_that_is_copied_is_there_and_reaches_the_build() -> None:
    sent = {str(path) for path in context()}
    for stage in stages():
        for name in copied(stage):
            assert name in sent or any(path.startswith(name) for path in sent), name
    assert "dropflow/nobody.pem" in sent
    assert not [
        path for path in sent if re.search(r"(^|/)(\.env|__pycache__|\.git|tests|stack\.env)(/|$)", path)
    ]


def test_what_is_ignored_stays_behind() -> None:
    patterns = ["*", "!flows", "**/__pycache__"]
    assert reaches_the_build(Path("flows/reading/text.py"), patterns)
    assert not reaches_the_build(Path("flows/reading/__pycache__/text.pyc"), patterns)
    assert not reaches_the_build(Path(".env"), patterns)


def test_every_base_is_of_one_python_and_one_debian() -> None:
    bases = {stage.base for stage in stages()}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.1[123]-slim-[a-z]+(@sha256:[0-9a-f]{64})?", bases.pop())


def test_it_runs_as_nobody_in_particular() -> None:
    user, group = LAST.values("USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert LAST.instructions[-2].value == '["dropflow"]'
    made = LAST.values("RUN")[0]
    assert f"--uid {user} " in made
    assert f"--gid {group} " in made


def test_no_secret_is_in_it() -> None:
    assert not any(name.upper() in dockerfile.FILE.read_text() for name in SECRETS)
    assert not [one for stage in stages() for one in stage.instructions if one.name == "ARG"]


def test_all_packages_come_from_the_lock() -> None:
    for stage in stages():
        for step in stage.values("RUN"):
            for command in re.findall(r"pip install [^&]*", step):
                assert "--no-deps" in command
                assert "--require-hashes" in command or command.strip().endswith("--editable .")


def test_every_package_of_ours_is_copied() -> None:
    ours = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    assert ours | {"datasets"} <= {name.rstrip("/") for name in copied(stages()[0])}
