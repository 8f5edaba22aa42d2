"""Every step the outside can see has a name here, so that a test can end the process at each of them."""

from collections.abc import Callable
from enum import StrEnum


class Point(StrEnum):
    """The step has just been done, and nothing after it."""

    NOTIFICATION_RECORDED = "notification recorded"
    OBJECTS_CLAIMED = "objects claimed"
    EVENT_POSTED = "event posted"
    DELIVERY_RECORDED = "delivery recorded"
    FATE_RECORDED = "fate recorded"
    OUTPUT_WRITTEN = "output written"
    RECEIPT_WRITTEN = "receipt written"
    ORPHAN_REMOVED = "orphan removed"


_observer: Callable[[Point], None] | None = None


def reached(point: Point) -> None:
    if _observer:
        _observer(point)


def observe(observer: Callable[[Point], None] | None) -> None:
    """Be called at every point from now on, in this process: for tests."""
    global _observer  # noqa: PLW0603 - one process, one observer
    _observer = observer
