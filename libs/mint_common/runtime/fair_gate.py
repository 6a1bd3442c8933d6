"""Turns of tenants at what few may do at a time, by `FairQueue`: a tenant that sends much waits for itself.

`FairGate` gives seats for a block; `LoopGate` gives turns on the event loop.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mint_common.fair_queue import FairQueue
from mint_common.runtime.clock import Clock, SystemClock
from mint_common.tenant_budget import TenantBudget

MAX_RETRY_SECONDS = 30
"""Maximum Retry-After: a queue is shorter by then."""
_NEWEST_WEIGHT = 0.2
"""Weight of the newest interval in the moving average of intervals between turns."""


@dataclass(slots=True, kw_only=True)
class LoopShare:
    """Computes the start of the next turn on the event loop, and the delay of a queue of turns.

    Turns with pauses between them take at most ``share`` of any span of time, and one turn.
    """

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


class FairGate:
    """Admits at most ``seats`` callers at a time, and at most ``limit`` of one tenant.

    ``callers`` bounds those who wait or are admitted. A free seat goes to the tenant with the fewest seats,
    of several in turn.
    """

    def __init__(self, seats: int, *, limit: float = math.inf, callers: TenantBudget | None = None) -> None:
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(seats=seats, limit=limit)
        self.callers = TenantBudget() if callers is None else callers

    @property
    def seated(self) -> int:
        """Return how many callers have a seat."""
        return self._queue.seated

    @property
    def waiting(self) -> int:
        """Return how many callers wait."""
        return len(self._queue)

    def resize(self, seats: int, *, limit: float = math.inf) -> None:
        """Change the number of seats; who has one keeps it, so that fewer are free for a while."""
        self._queue.seats, self._queue.limit = seats, limit
        self._admit()

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a seat, and hold it for the block. Raises Overloaded when ``callers`` are too many."""
        self.callers.check(tenant)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.callers.take(tenant)
        self._queue.push(tenant, turn)
        self._admit()
        try:
            await turn  # no iteration of the loop passes if it has been admitted
            yield
        finally:
            self.callers.take(tenant, -1)
            if turn.cancelled():
                self._queue.discard(tenant, turn)
            else:
                self._release(tenant)

    def _release(self, tenant: str) -> None:
        self._queue.end(tenant)
        self._admit()

    def _admit(self) -> None:
        while (found := self._queue.next()) is not None:
            tenant, turn = found
            if turn.cancelled():
                self._queue.discard(tenant, turn)  # its task has not resumed yet
            else:
                self._begin(tenant, turn)

    def _begin(self, tenant: str, turn: "asyncio.Future[None]") -> None:
        self._queue.start(tenant)
        turn.set_result(None)


class LoopGate(FairGate):
    """One turn at a time on the event loop, tenants alternating, for work that no other task can interrupt.

    A turn ends one iteration of the loop after its block: it includes the task's work until it waits,
    and between two turns the loop handles arrivals. While warm requests are open, or were
    ``warm_seconds`` ago, turns take at most ``share`` of the time.
    """

    def __init__(
        self,
        *,
        callers: TenantBudget | None = None,
        free: int = 0,
        share: float = 1,
        clock: Clock | None = None,
        warm_seconds: float = 0,
    ) -> None:
        """``free`` is a tenant's limit in one iteration of the loop without a turn."""
        super().__init__(1, callers=callers)
        self._free = free
        self._brought: Counter[str] = Counter()
        self._pauses = LoopShare(share=share) if share < 1 else None
        self._clock = SystemClock() if clock is None else clock
        self._warm_seconds = warm_seconds
        self._warm = 0
        self._cooled_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0

    async def admit(self, tenant: str, amount: int = 1) -> None:
        """Wait for a turn, unless the tenant has used at most ``free`` in this iteration of the loop."""
        if self._free:
            if not self._brought:
                asyncio.get_running_loop().call_soon(self._brought.clear)
            self._brought[tenant] += amount
            if self._brought[tenant] <= self._free:
                return
        async with self.turn(tenant):
            pass  # the turn goes on until the task waits

    def enter_warm(self) -> None:
        """Count a warm request: turns leave it its share."""
        self._warm += 1

    def leave_warm(self) -> None:
        """Count one warm request less."""
        self._warm -= 1
        self._cooled_at = self._clock.monotonic()
        if not self._warm:
            self._admit()

    def _release(self, tenant: str) -> None:
        asyncio.get_running_loop().call_soon(self._end, tenant)

    def _end(self, tenant: str) -> None:
        self._queue.end(tenant)
        if self._pauses is not None:
            waiting, seconds = len(self._queue), time.thread_time() - self._began
            self._pauses.end(self._clock.monotonic(), seconds=seconds, waiting=waiting)
            self.callers.retry_after_seconds = self._pauses.retry_seconds(waiting)
        self._admit()

    def _admit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        seconds = 0.0 if self._pauses is None else self._rest_of_pause(self._pauses)
        if seconds and len(self._queue):
            self._timer = asyncio.get_running_loop().call_later(seconds, self._admit)
        elif not seconds:
            super()._admit()

    def _begin(self, tenant: str, turn: "asyncio.Future[None]") -> None:
        super()._begin(tenant, turn)
        if self._pauses is not None:
            self._began = time.thread_time()

    def _rest_of_pause(self, pauses: LoopShare) -> float:
        now = self._clock.monotonic()
        is_warm = self._warm > 0 or now - self._cooled_at < self._warm_seconds
        return pauses.wait_seconds(now) if is_warm else 0.0
