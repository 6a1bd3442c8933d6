"""Admission of requests in turn: an `AdmissionQueue` on the event loop.

The cost of a begin is one step of the request's task, measured when the loop reaches the next callback.
"""

import asyncio
import math
import time

from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from services.gateway.core.admission import AdmissionQueue


class AdmissionGate:
    """Admits queued requests one by one, and yields to warm requests."""

    def __init__(self, queue: AdmissionQueue, clock: Clock, *, warm_seconds: float = 0) -> None:
        """``warm_seconds``: how long after a warm request the queue still yields, in case another follows."""
        self._queue = queue
        self._warm_seconds = warm_seconds
        self._left_at = -math.inf
        self._clock = clock
        self._turns: dict[int, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._warm = 0

    def enter_warm(self) -> None:
        """Count a warm request: the queue yields to it."""
        self._warm += 1

    def leave_warm(self) -> None:
        """Count one warm request less."""
        self._warm -= 1
        self._left_at = self._clock.monotonic()
        if not self._warm:
            self._next()

    async def admit(self, tenant_id: TenantId) -> None:
        """Wait until the request may begin. Raises Overloaded when too many wait."""
        ticket = self._queue.join(tenant_id)
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        self._next()
        try:
            await turn
        finally:
            self._queue.leave(ticket)
            self._turns.pop(ticket, None)

    def _next(self) -> None:
        """Begin the next one, now or when its pause is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock.monotonic()
        is_warm = self._warm > 0 or now - self._left_at < self._warm_seconds
        seconds = self._queue.wait_seconds(now, warm=is_warm)
        if seconds is None:
            return
        loop = asyncio.get_running_loop()
        if seconds > 0:
            self._timer = loop.call_later(seconds, self._next)
            return
        turn = self._turns[self._queue.begin()]
        if not turn.done():  # else its request was cancelled and has not left yet
            turn.set_result(None)
        loop.call_soon(self._end, time.thread_time())  # runs after the task's own step

    def _end(self, began: float) -> None:
        self._queue.end(self._clock.monotonic(), seconds=time.thread_time() - began)
        # Not at once: between two begins the loop handles what has arrived.
        asyncio.get_running_loop().call_soon(self._next)
