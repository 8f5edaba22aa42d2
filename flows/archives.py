"""What is fitted, as the bytes of a skops archive: never a pickle.

skops is imported when it is first needed: it imports all of scikit-learn, which takes a second.
"""

from collections.abc import Iterable
from typing import Any


def dumps(fitted: Any) -> bytes:
    from skops import io

    content: bytes = io.dumps(fitted)
    return content


def untrusted_types(content: bytes) -> list[str]:
    """Names of types in the archive that skops does not trust. Raises anything where it is none."""
    from skops import io

    return list(io.get_untrusted_types(data=content))


def loads(content: bytes, trusted: Iterable[str]) -> Any:
    """What it holds, of types that skops or `trusted` names only. Raises anything where it is no archive."""
    from skops import io

    return io.loads(content, trusted=list(trusted))
