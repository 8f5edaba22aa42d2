"""A lack of memory: the file's fault, or the machine's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from dropflow.errors import RejectedError, TransientError
from dropflow.objects import printable
from flows.limits import taken_by

HARDLY_ANY = 0.05
"""Of the machine's memory."""
TO_DO = "split it, or prepare it on a machine with more memory; a damaged file is to be sent again"


@contextmanager
def rejecting_out_of_memory() -> Iterator[None]:
    """A MemoryError, which numpy and pyarrow raise as well, as our own.

    It is the file's: a system refuses memory to who wants more than there is at all, or than this process
    may have, and runs at once are ended before they take all together (flows/limits.py). Only where the
    machine has hardly any left, and others hold most of it, the object is tried again.
    Raises RejectedError, or TransientError.
    """
    try:
        yield
    except MemoryError as error:
        why = printable(str(error), 150) or "more was wanted than there is"
        if _others_hold_it():
            raise TransientError(f"the machine lacks memory, which others hold ({why})") from error
        raise RejectedError(f"takes more memory than a run can have ({why}): {TO_DO}") from error


def _others_hold_it() -> bool:
    machine = psutil.virtual_memory()
    return machine.available < HARDLY_ANY * machine.total and taken_by(os.getsid(0)) < machine.used / 2
