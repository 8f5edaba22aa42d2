"""What `dropflow apply` does to one thing on the server, or would do."""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NEW_ID = "00000000-0000-0000-0000-000000000000"
"""Stands for the id of what is not on the server yet."""
LONGEST_LINE = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """One field, such as trigger.threshold, on the server and in the files; None: it is not there."""

    field: str
    before: Any
    after: Any

    def lines(self) -> list[str]:
        """As a unified diff has them: "-" before, "+" after; of long texts the changed lines only."""
        pair = (_lines(self.before), _lines(self.after))
        found = list(difflib.unified_diff(*pair, n=0, lineterm=""))[2:]
        return [line[:LONGEST_LINE] for line in found if not line.startswith("@@")]


@dataclass(frozen=True, slots=True)
class Change:
    """`action` is created, updated, unchanged or removed."""

    kind: str
    name: str
    action: str
    note: str = ""
    differences: tuple[Difference, ...] = ()
    """Of what is updated."""


def differences(before: Any, after: Any, field: str = "") -> Iterator[Difference]:
    """Field by field."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            inside = f"{field}.{name}" if field else str(name)
            yield from differences(before.get(name), after.get(name), inside)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{field}.{number}")
    elif before != after:
        yield Difference(field, before, after)


def _lines(value: Any) -> list[str]:
    if value is None:
        return []
    return value.splitlines() if isinstance(value, str) else [json.dumps(value, ensure_ascii=False)]
