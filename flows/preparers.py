"""Preparers: processes that share the objects of one run, so that it uses every core.

They are forked before the run has threads, as a process with threads cannot be forked safely. One that
a file brings down takes that file's object with it and no other.
"""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

from dropflow import tracing
from dropflow.settings import load_settings
from dropflow.storage import connect
from flows.limits import how_it_ended
from flows.outcomes import Apart, Outcome
from flows.preparation import Work

NONE_LEFT = "no process is left to prepare it: the worker's log may tell why"
AHEAD = 2
"""Keys that a preparer has been given: it need not wait for the next."""


@dataclass
class _Preparer:
    process: ForkProcess
    pipe: Connection
    given: deque[str] = field(default_factory=deque)


class Preparers:
    """So many processes, forked at once."""

    def __init__(self, number: int) -> None:
        self._preparers: list[_Preparer] = []
        for _ in range(number):
            ours, theirs = multiprocessing.Pipe()
            others = [ours, *(one.pipe for one in self._preparers)]
            process = multiprocessing.get_context("fork").Process(target=_serve, args=(theirs, others))
            process.start()
            theirs.close()
            self._preparers.append(_Preparer(process, ours))

    def prepare(self, work: Work, keys: Sequence[str], *, one_teaches: bool = False) -> Iterator[Outcome]:
        """Prepare the objects; outcomes come as they are done, with what was logged.

        `one_teaches`: the preprocessor is fitted on one of them, and the others wait until that is done.
        """
        waiting = deque(keys)
        learning = one_teaches
        self._tell(work)
        while waiting or any(one.given for one in self._preparers):
            if not self._preparers:
                yield work.outcome(waiting.popleft(), "failed", NONE_LEFT), []
                continue
            self._hand_out(waiting, alone=learning)
            for preparer in self._ready():
                prepared, lines = self._answer(preparer, work, waiting)
                yield prepared, lines
                if learning and prepared.is_done:
                    learning = False
                    self._tell(replace(work, refit=False))

    def end(self) -> None:
        for one in self._preparers:
            one.pipe.close()
        for one in self._preparers:
            if tracing.is_on():
                # It sends what it has traced.
                one.process.join(tracing.FLUSH_SECONDS)
            one.process.terminate()
            one.process.join()

    def _tell(self, work: Work) -> None:
        for one in self._preparers:
            _sent(one.pipe, work)

    def _hand_out(self, waiting: deque[str], *, alone: bool) -> None:
        most, preparers = (1, self._preparers[:1]) if alone else (AHEAD, self._preparers)
        for number in range(1, most + 1):
            for one in list(preparers):
                if waiting and len(one.given) < number:
                    self._give(one, waiting)

    def _give(self, preparer: _Preparer, waiting: deque[str]) -> None:
        if _sent(preparer.pipe, waiting[0]):
            preparer.given.append(waiting.popleft())
        elif not preparer.given:
            # It has ended before it began: no object is to blame.
            self._preparers.remove(preparer)

    def _ready(self) -> list[_Preparer]:
        at_work = [one for one in self._preparers if one.given]
        ready = wait([one.pipe for one in at_work])
        return [one for one in at_work if one.pipe in ready]

    def _answer(self, preparer: _Preparer, work: Work, waiting: deque[str]) -> Outcome:
        try:
            answer: Outcome = preparer.pipe.recv()
        except (EOFError, OSError):
            self._preparers.remove(preparer)
            preparer.process.join()
            culprit, *others = preparer.given
            waiting.extendleft(reversed(others))
            code = preparer.process.exitcode
            return work.outcome(culprit, "failed", how_it_ended(code if code is not None else 1)), []
        preparer.given.popleft()
        return answer


_forked: list[Preparers] = []


@contextmanager
def forked_for_the_run(number: int) -> Iterator[None]:
    """The run's preparers: forked before it does anything else, ended with it."""
    if number:
        _forked.append(Preparers(number))
    try:
        yield
    finally:
        while _forked:
            _forked.pop().end()


def forked() -> Preparers | None:
    """Those of this run; None where it has to do without."""
    return _forked[0] if _forked else None


def _sent(pipe: Connection, message: Work | str) -> bool:
    """False where nobody is left to take it."""
    try:
        pipe.send(message)
    except BrokenPipeError:
        return False
    return True


def _serve(pipe: Connection, others: list[Connection]) -> None:
    """In a preparer: prepare what comes, until the run has ended."""
    for other in others:
        # Open here, they would keep other preparers from seeing the run's end.
        other.close()
    store = connect(load_settings())
    apart: Apart | None = None
    while True:
        try:
            message: Work | str = pipe.recv()
        except EOFError:
            return tracing.flush()
        if isinstance(message, Work):
            apart = Apart(message, store)
            continue
        assert apart
        pipe.send(apart.prepare(message))
