"""Globs of keys, matched name by name, so that no key takes long."""

import re

import bracex
from wcmatch import glob

FLAGS = glob.DOTGLOB | glob.FORCEUNIX | glob.CASE
_SLASHES = re.compile("/+")
_NO_DOTS = re.compile(r"(?!\.\.?\Z).*", re.DOTALL)

Part = re.Pattern[str] | None
"""What a name is to match in full; None for any number of names."""


class Glob:
    """`*`, `?` and `[…]` within a name, `**` for any number of names, `{a,b}` for either: wcmatch's rules.

    wcmatch makes one regular expression of it all, which tries all ways to share a key among several `**`.
    """

    def __init__(self, pattern: str) -> None:
        either = bracex.expand(pattern, keep_escapes=True, return_empty=True)
        self._either = [_parts(_SLASHES.split(one)) for one in either]

    def matches(self, path: str) -> bool:
        names = _SLASHES.split(path)
        if any(_match(parts, names) for parts in self._either):
            return True
        # A pattern that ends with a name is content with a folder of that name.
        return path.endswith("/") and self.matches(path.rstrip("/"))


def _parts(names: list[str]) -> list[Part]:
    # A backslash that escapes nothing counts for nothing.
    parts = [None if name in ("**", "**\\") else _compiled(name) for name in names]
    # What is below a folder is not the folder itself.
    return [*parts, _NO_DOTS] if parts[-1] is None else parts


def _compiled(name: str) -> re.Pattern[str]:
    # In one name wcmatch is quick: its expression gives up what a `*` has taken only for the last one.
    (expression,), _ = glob.translate(name, flags=FLAGS)
    return re.compile(expression)


def _match(parts: list[Part], names: list[str]) -> bool:
    """Whether the parts match all names, going through all ways to do so at once."""
    ends = {0}
    for part in parts:
        if part is None:
            _span(ends, names)
        else:
            ends = {end + 1 for end in ends if end < len(names) and part.fullmatch(names[end])}
        if not ends:
            return False
    return len(names) in ends


def _span(ends: set[int], names: list[str]) -> None:
    """Add wherever one gets by taking names, but for `.` and `..`."""
    for end, name in enumerate(names):
        if end in ends and _NO_DOTS.fullmatch(name):
            ends.add(end + 1)
