"""Pauses between turns on the event loop, so that what takes turns leaves a share of the loop to the rest.

Invariant: turns with pauses between them take at most ``share`` of any span of time, and one turn.
"""

import math
from dataclasses import dataclass

MAX_RETRY_SECONDS = 30
"""Maximum Retry-After: a queue is shorter by then."""
_NEWEST_WEIGHT = 0.2
"""Weight of the newest interval in the moving average of intervals between turns."""


@dataclass(slots=True, kw_only=True)
class LoopShare:
    """Computes the start of the next turn, and the delay of a queue of turns."""

    share: float
    _ended_at: float = -math.inf
    _pause_seconds: float = 0.0
    _interval_seconds: float = 0.0
    _has_queue: bool = False

    def wait_seconds(self, now: float) -> float:
        """Return the rest of the pause."""
        return max(0.0, self._ended_at + self._pause_seconds - now)

    def end(self, now: float, *, seconds: float, waiting: int) -> None:
        """Note the end of a turn, its length, and how many wait for the next one."""
        if self._has_queue:
            self._interval_seconds += _NEWEST_WEIGHT * (now - self._ended_at - self._interval_seconds)
        self._has_queue = waiting > 0
        self._ended_at = now
        self._pause_seconds = seconds * (1 - self.share) / self.share

    def retry_seconds(self, waiting: int) -> int:
        """Return when so many will have had their turns, within bounds."""
        return min(MAX_RETRY_SECONDS, max(1, math.ceil(self._interval_seconds * waiting)))
