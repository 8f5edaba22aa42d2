"""What was done with one object in another process than its run's, with the lines logged there."""

import logging
from typing import NamedTuple

from dropflow.storage import ObjectStore
from flows.preparation import Prepared, Work


class Line(NamedTuple):
    """Of a log; the run logs it as its own."""

    level: int
    text: str


Outcome = tuple[Prepared, list[Line]]


class Apart:
    """A preparation of `work` there: one object after the other."""

    def __init__(self, work: Work, store: ObjectStore) -> None:
        self._lines: list[Line] = []
        self._preparation = work.preparation(store, log=_noting(self._lines))

    def prepare(self, key: str) -> Outcome:
        """An error of the object is in the outcome, and none is raised."""
        prepared = self._preparation.prepare(key)
        lines = list(self._lines)
        self._lines.clear()
        return prepared, lines


def _noting(lines: list[Line]) -> logging.Logger:
    """A logger of nobody else's, which notes its lines."""

    class Noted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(Line(record.levelno, self.format(record)))

    log = logging.Logger(__name__, logging.INFO)
    log.addHandler(Noted())
    return log
