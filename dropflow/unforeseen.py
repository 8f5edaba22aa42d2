"""Errors that nobody foresaw: logged and counted, and never more than the trouble of what they are about."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dropflow.errors import DropflowError, TransientError, UnforeseenError
from dropflow.objects import printable

log = logging.getLogger(__name__)

seen: Counter[str] = Counter()
"""How many there were in this process, by the type of the exception."""


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Raise an UnforeseenError about `what` in place of any exception that is not a DropflowError.

    What the machine lacks is a TransientError: no fault of what it is about.

    Whoever works on many things wraps each of them, and goes on with the next. The exception's own text stays
    in the log: it may hold anything.
    """
    try:
        yield
    except DropflowError:
        raise
    except Exception as error:
        kind = type(error).__name__
        seen[kind] += 1
        named = printable(what, 300)
        log.exception("unforeseen: %s", named)
        if isinstance(error, MemoryError | OSError):
            raise TransientError(f"{named}: {kind}: this machine lacks memory, files or disk") from error
        raise UnforeseenError(
            f"{named}: {kind}, which nobody foresaw: please report it, with the traceback in the log"
        ) from error


@dataclass
class Troubles:
    """Errors about single things, by what they are about, kept until all others have been seen to."""

    errors: dict[str, DropflowError] = field(default_factory=dict)

    @contextmanager
    def kept(self, what: str) -> Iterator[None]:
        """Keep whatever goes wrong inside, which is about `what` alone."""
        try:
            with contained(what):
                yield
        except DropflowError as error:
            self.errors[what] = error

    def raise_last(self) -> None:
        if self.errors:
            raise next(reversed(self.errors.values()))
