"""Limit the engine time of activations (copies of adapters into slots), and give first tokens precedence.

While requests generate, each millisecond of an activation delays their next token by one. Its share of the
engine's time is fixed: a share that follows current latency would allow bursts when they hurt most.

Invariant: in any span of t milliseconds, activations stall the engine for at most
``burst_ms + share * t`` and one slice.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class StallBudget:
    """A bucket of engine milliseconds: it fills by ``share``, and a measured stall empties it.

    It may go below zero, as a stall is known only after it has happened; nothing starts until it is back.
    """

    share: float
    burst_ms: float
    level_ms: float
    at: float

    @classmethod
    def full(cls, *, share: float, burst_ms: float, now: float) -> "StallBudget":
        """Return a budget of which nothing is spent."""
        assert 0 < share <= 1
        return cls(share=share, burst_ms=burst_ms, level_ms=burst_ms, at=now)

    def wait_seconds(self, now: float) -> float:
        """Return how long nothing may start."""
        missing = -self._filled(now).level_ms
        # Less than a clock can tell is nothing: a wait that no time passes in would never end.
        return missing / (1000.0 * self.share) if missing > _MIN_MS else 0.0

    def spend(self, stall_ms: float, *, now: float) -> "StallBudget":
        """Charge a slice's measured time."""
        filled = self._filled(now)
        return replace(filled, level_ms=filled.level_ms - stall_ms)

    def _filled(self, now: float) -> "StallBudget":
        gained = 1000.0 * self.share * max(0.0, now - self.at)
        return replace(self, level_ms=min(self.burst_ms, self.level_ms + gained), at=max(now, self.at))


_MIN_MS = 1e-3


def precedence_seconds(
    *, first_tokens: int, warm: int, since: float, now: float, max_seconds: float
) -> float:
    """Return how long an adapter whose turn came at ``since`` yields to pending first tokens.

    Its copy, and then the prompts of those who waited for it, would share the steps of ``first_tokens`` that
    others wait for, and make them longer. Where no request is ``warm`` all wait for adapters, and none goes
    first.
    """
    if not first_tokens or not warm:
        return 0.0
    return max(0.0, since + max_seconds - now)
