"""Documents as a reader follows them: fenced blocks of commands, and what is shown of their output."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dropflow.settings import PROJECT

DOCUMENTS = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<-?'?(\w+)'?")
_EXIT = re.compile(r"\s#.*\bexits with (\d+)")


@dataclass(frozen=True)
class Command:
    """One command, over as many lines as it takes."""

    text: str
    code: int = 0
    """It is said to exit with."""


@dataclass(frozen=True)
class Block:
    """Commands and the output that is shown right below; no commands: output of what runs already."""

    commands: tuple[Command, ...]
    shown: str = ""


def blocks(document: Path) -> Iterator[Block]:
    text = document.read_text()
    commands: tuple[Command, ...] = ()
    end = 0
    for found in _BLOCK.finditer(text):
        kind, content = found.groups()
        is_below = kind == "text" and not text[end : found.start()].strip("\n`")
        if commands:
            yield Block(commands, content if is_below else "")
        if kind == "text" and not (commands and is_below):
            yield Block((), content)
        commands = tuple(_commands(content)) if kind == "sh" else ()
        end = found.end()
    if commands:
        yield Block(commands)


def commands_of(document: Path) -> list[str]:
    return [command.text for block in blocks(document) for command in block.commands]


def _commands(content: str) -> Iterator[Command]:
    lines = iter(content.splitlines())
    for first in lines:
        code = _EXIT.search(first)
        text = re.sub(r"\s+#\s.*$", "", first)
        if not text.strip() or text.startswith("#"):
            continue
        if heredoc := _HEREDOC.search(text):
            for line in lines:
                text += f"\n{line}"
                if line == heredoc[1]:
                    break
        while text.endswith("\\"):
            text += f"\n{next(lines)}"
        yield Command(text, int(code[1]) if code else 0)


def pattern(shown: str) -> re.Pattern[str]:
    """What is shown, with `…` for what differs: in a line, any characters; alone on one, any lines."""
    lines = [
        r"(?:.*\n)*?"
        if line == "…"
        else "[^\n]*".join(re.escape(part) for part in line.rstrip().split("…")) + r"[ ]*\n"
        for line in shown.splitlines()
    ]
    return re.compile(r"\n*" + "".join(lines) + r"\n*")
