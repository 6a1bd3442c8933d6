"""Simulated time: what happens next, and when."""

import heapq
import itertools
from collections.abc import Callable


class World:
    """Events in order of time; of equal times, in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, action: Callable[..., None], *args: object) -> None:
        """Plan an action."""
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), action, args))

    def run(self, until: float) -> None:
        """Let time pass; what is planned for later stays."""
        while self._events and self._events[0][0] <= until:
            self.now, _, action, args = heapq.heappop(self._events)
            action(*args)
        self.now = until

    @property
    def is_over(self) -> bool:
        """Return whether nothing is planned any more."""
        return not self._events
