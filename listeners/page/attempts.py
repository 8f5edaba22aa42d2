"""Wrong tokens of late, by address: whoever gives many has to wait."""

import time
from collections import OrderedDict, deque

MOST = 10
WITHIN = 60.0
"""Seconds in which an address may give so many."""
MOST_ADDRESSES = 1000
"""That are remembered; the one that has been quiet for longest is forgotten first."""


class Attempts:
    """Behind a proxy everybody has the proxy's address: who is signed in already stays so."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def too_many(self, address: str) -> bool:
        times = self._wrong.get(address, ())
        return sum(at > time.monotonic() - WITHIN for at in times) >= MOST

    def wrong(self, address: str) -> None:
        self._wrong.setdefault(address, deque(maxlen=MOST)).append(time.monotonic())
        self._wrong.move_to_end(address)
        if len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)
