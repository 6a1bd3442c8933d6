"""Precedence of interactive sequences over background ones, such as the rollouts of jobs, on one engine.

Invariant: while interactive sequences run or wait, steps with background ones take at most `SHARE` of the
engine's time, and one step more. Without interactive sequences background ones have the whole engine.
"""

import math

from services.loader.core.stall_budget import StallBudget

INTERACTIVE, BACKGROUND = 0, 1
"""The priorities of vLLM's requests."""
SHARE = 0.15
"""Share of the engine's time for steps with background sequences, so that they do not starve."""
EXPECTED_SECONDS = 0.05
"""Another interactive request is expected so soon after the last one: a client that asks one by one would
otherwise wait for a step of background sequences each time."""


class BackgroundShare:
    """Decides which steps have no background sequences."""

    def __init__(self) -> None:
        self._budget = _full(-math.inf)
        self._interactive_at = -math.inf

    def sits_out(self, *, has_interactive: bool, now: float) -> bool:
        """Return whether a step that is planned now has no background sequences."""
        if has_interactive:
            self._interactive_at = now
        return self._is_shared(now) and self._budget.wait_seconds(now) > 0

    def end_step(self, seconds: float, *, has_interactive: bool, has_background: bool, now: float) -> None:
        """Charge the time of a step with background sequences; without interactive ones only the last."""
        if has_background:
            budget = self._budget if self._is_shared(now - seconds) else _full(now)
            self._budget = budget.spend(1000 * seconds, now=now)
        if has_interactive:
            self._interactive_at = now

    def _is_shared(self, now: float) -> bool:
        return now - self._interactive_at < EXPECTED_SECONDS


def _full(now: float) -> StallBudget:
    return StallBudget.full(share=SHARE, burst_ms=0.0, now=now)


def background_reserve(reserve: int) -> int:
    """Return the seats of the reserve that background sequences may take, and retain: half of them."""
    return (reserve + 1) // 2


def background_to_preempt(*, waiting: int, free: int, background: int, reserve: int) -> int:
    """Return how many background sequences end up waiting again so that interactive ones have seats.

    ``waiting`` are interactive; ``free`` seats are those beyond the reserve; ``reserve``: see
    `background_reserve`.
    """
    return max(0, min(waiting - max(0, free), background - reserve))
