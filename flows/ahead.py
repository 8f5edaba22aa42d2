"""Iterating ahead in threads: reading and parsing overlap with computing and writing."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items; the next one is made while the last one is used. An error of theirs is raised here."""
    iterator = iter(items)
    end = object()
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc] # the end is none of the items


def mapped(function: Callable[[T], R], items: Iterable[T], at_once: int = 2) -> Iterator[R]:
    """As `map`, in order; so many results are made while the last one is used."""
    coming: deque[Future[R]] = deque()
    with ThreadPoolExecutor(at_once, "mapped") as pool:
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) > at_once:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
