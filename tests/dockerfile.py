"""What the Dockerfile says, and which files of a checkout reach a build."""

import shlex
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser
from wcmatch.glob import DOTGLOB, GLOBSTAR, globmatch

from dropflow.settings import PROJECT

FILE = PROJECT / "Dockerfile"


@dataclass(frozen=True)
class Instruction:
    name: str
    value: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.value)


@dataclass
class Stage:
    """What stands between one FROM and the next."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def values(self, instruction: str) -> list[str]:
        return [one.value for one in self.instructions if one.name == instruction]


def stages() -> list[Stage]:
    with FILE.open("rb") as file:
        found: list[Stage] = []
        for line in DockerfileParser(fileobj=file).structure:
            name, value = line["instruction"], line["value"]
            if name == "FROM":
                base, *named = value.split()
                found.append(Stage(base, named[1] if named else ""))
            elif name != "COMMENT":
                found[-1].instructions.append(Instruction(name, value))
        return found


def variables(value: str, known: dict[str, str]) -> dict[str, str]:
    """What an ENV sets; it may name variables that were set before."""
    pairs = (word.partition("=") for word in shlex.split(value))
    return {name: string.Template(text).substitute(known) for name, _, text in pairs}


def reaches_the_build(path: Path, patterns: list[str]) -> bool:
    """Whether .dockerignore lets a path of the checkout through: the last pattern that matches says so."""
    ignored = False
    # A folder's pattern is one for all that is in it.
    names = [str(parent) for parent in (path, *path.parents) if parent.name]
    for pattern in patterns:
        if any(globmatch(name, pattern.lstrip("!").strip("/"), flags=GLOBSTAR | DOTGLOB) for name in names):
            ignored = not pattern.startswith("!")
    return not ignored


def context() -> Iterator[Path]:
    """The files that are sent to a build, relative to the checkout."""
    lines = (PROJECT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    kept = {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")}
    for path in PROJECT.iterdir():
        # A checkout has huge folders that are none of it; what is let through is let through at the top.
        files = path.rglob("*") if path.is_dir() and path.name in kept else [path]
        for file in files:
            relative = file.relative_to(PROJECT)
            if file.is_file() and reaches_the_build(relative, patterns):
                yield relative
