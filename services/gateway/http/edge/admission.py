"""Turns for requests whose beginning takes long: `core.admission` over time.

What a request costs before it waits for others is one step of its task: it is begun, and measured when the
loop comes to what stands behind it.
"""

import asyncio
import math
import time

from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from services.gateway.core.admission import PacedLine


class Pace:
    """Lets warm requests pass, and those of the line one by one."""

    def __init__(self, line: PacedLine, clock: Clock, *, warm_seconds: float = 0) -> None:
        """``warm_seconds``: how long after a warm request the line still makes way, for the next one."""
        self._line = line
        self._warm_seconds = warm_seconds
        self._left_at = -math.inf
        self._clock = clock
        self._turns: dict[int, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._warm = 0

    def enter_warm(self) -> None:
        """Count a warm request: the line makes way for it."""
        self._warm += 1

    def leave_warm(self) -> None:
        """Count it no more."""
        self._warm -= 1
        self._left_at = self._clock.monotonic()
        if not self._warm:
            self._next()

    async def turn(self, tenant_id: TenantId) -> None:
        """Wait for a request's turn. Raises Overloaded when too many wait."""
        number = self._line.join(tenant_id)
        turn = self._turns[number] = asyncio.get_running_loop().create_future()
        self._next()
        try:
            await turn
        finally:
            self._line.leave(number)
            self._turns.pop(number, None)

    def _next(self) -> None:
        """Call the next one, now or when there is time for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock.monotonic()
        is_warm = self._warm > 0 or now - self._left_at < self._warm_seconds
        seconds = self._line.wait_seconds(now, warm=is_warm)
        if seconds is None:
            return
        loop = asyncio.get_running_loop()
        if seconds > 0:
            self._timer = loop.call_later(seconds, self._next)
            return
        turn = self._turns[self._line.begin()]
        if not turn.done():  # else its request was cancelled just now, and has not left yet
            turn.set_result(None)
        loop.call_soon(self._end, time.thread_time())  # behind the task's own step

    def _end(self, began: float) -> None:
        self._line.end(self._clock.monotonic(), seconds=time.thread_time() - began)
        # Not at once: between two of them the loop takes what has come meanwhile.
        asyncio.get_running_loop().call_soon(self._next)
