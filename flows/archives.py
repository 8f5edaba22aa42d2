"""What is fitted, as the bytes of a skops archive: never a pickle.

skops trusts all of scikit-learn and numpy, which is more than enough to read a file of this machine. So an
archive says in its schema.json what it is made of, and that is read here, before skops builds anything.

skops is imported when it is first needed: it imports all of scikit-learn, which takes a second.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

from dropflow.errors import PermanentError
from dropflow.objects import printable

MOST_BYTES = 4 * 2**30
"""An archive unpacked: a small one must not fill the memory."""
PROTOCOL = 2
"""Of skops' format. Nodes of an earlier one are read by code of their own."""

Types = dict[str, list[str]]
"""Names of types, by what skops builds them with: the `__loader__` of a node of schema.json."""

PLAIN: Types = {
    "JsonNode": ["builtins.str"],
    "ListNode": ["builtins.list"],
    "TupleNode": ["builtins.tuple"],
    "DictNode": ["builtins.dict"],
    "NdArrayNode": [
        "numpy.ndarray",
        *(f"numpy.{name}" for name in ("bool", "float32", "float64", "int32", "int64", "uint32", "uint64")),
    ],
    "DTypeNode": ["numpy.dtype"],
    # Of the keys of a dict, and the numbers that an encoder gives.
    "TypeNode": [
        *(f"builtins.{name}" for name in ("bool", "float", "int", "str")),
        *(f"numpy.{name}" for name in ("float32", "float64")),
    ],
}
"""Values: numbers, texts, arrays, and lists and dicts of them."""


class ArchiveError(PermanentError):
    """Bytes that are no archive of ours. The message follows on the name of what they are said to be."""


def names(*classes: type) -> list[str]:
    """What skops calls them."""
    return [f"{one.__module__}.{one.__name__}" for one in classes]


def dumps(fitted: Any) -> bytes:
    from skops import io as skops

    content: bytes = skops.dumps(fitted)
    return content


def loads(content: bytes, types: Types) -> Any:
    """What it holds, if that is of these types only. Raises ArchiveError."""
    check(content, types)
    from skops import io as skops

    try:
        return skops.loads(content, trusted=sorted({name for some in types.values() for name in some}))
    except Exception as error:
        # skops follows what the archive says; what breaks on the way can be anything.
        reason = printable(f"{type(error).__name__}: {error}", 200)
        raise ArchiveError(f"cannot be loaded: {reason}") from error


def check(content: bytes, types: Types) -> None:
    """Builds nothing. Raises ArchiveError where `loads` would not load it."""
    try:
        schema = _schema(content)
        foreign = _foreign(schema, types)
        if not foreign:
            _size(schema, {})
    except ArchiveError:
        raise
    except Exception as error:
        # Of zipfile, json, or a schema that is none.
        raise ArchiveError(f"cannot be read: it is no skops file ({printable(str(error), 200)})") from error
    if foreign:
        raise ArchiveError(
            f"holds the type {printable(', '.join(sorted(foreign)), 300)}, which is not trusted: not loaded"
        )


def _schema(content: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(item.file_size for item in archive.infolist())
        if size > MOST_BYTES:
            raise ArchiveError(f"would take {size / 2**30:.1f} GiB of memory: too large")
        if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
            raise ArchiveError("is compressed, which none of ours is: not loaded")
        schema: dict[str, Any] = json.loads(archive.read("schema.json"))
    if schema.get("protocol") != PROTOCOL:
        raise ArchiveError(f"is of another protocol of skops than {PROTOCOL}: not loaded")
    return schema


def _foreign(schema: Any, types: Types) -> set[str]:
    """Types that are not among these, or not to be built in this way."""
    foreign = set()
    for node in _nodes(schema):
        loader, name = str(node.get("__loader__")), f"{node.get('__module__')}.{node.get('__class__')}"
        if name not in types.get(loader, ()):
            foreign.add(f"{name} ({loader})")
        elif not _is_numbered(node):
            raise ArchiveError("holds an object without a number of its own: not loaded")
    return foreign


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    left = [part]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            if _is_node(part):
                yield part
            left += part.values()
        elif isinstance(part, list):
            left += part


def _is_node(part: dict[str, Any]) -> bool:
    """Whether skops could take it for an object: in a dict of objects, these names have dicts."""
    return any(not isinstance(part.get(mark, {}), dict) for mark in ("__id__", "__loader__"))


def _is_numbered(node: dict[str, Any]) -> bool:
    """As skops does it: so no array is read twice."""
    number = node.get("__id__")
    return type(number) is int and number > 0 and node.get("file", f"{number}.npy") == f"{number}.npy"


def _size(part: Any, known: dict[int, int]) -> int:
    """The number of objects in it. Raises ArchiveError where one number is given to objects of several sizes.

    skops takes a number that comes again for the first object that has it, but writes it out each time. So
    what is loaded is no larger than what is written, and refers to itself nowhere.
    """
    if isinstance(part, list):
        return sum(_size(one, known) for one in part)
    if not isinstance(part, dict):
        return 0
    size = sum(_size(one, known) for one in part.values())
    if not _is_node(part):
        return size
    if known.setdefault(part["__id__"], size) != size:
        raise ArchiveError("says two things of one object: not loaded")
    return size + 1
