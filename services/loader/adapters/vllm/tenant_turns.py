"""One begin at a time, the tenants in turn: `core.fair_queue` with one seat, over time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mint_common.fair_queue import FairQueue


class TenantTurns:
    """Who comes waits for the turn that is taken, and for one of each other tenant at the most.

    A turn ends one iteration of the event loop after its block: what the task does before it waits for
    something belongs to it, and between two turns the loop takes in who has come meanwhile.
    """

    def __init__(self) -> None:
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(seats=1, reserve=0)

    @asynccontextmanager
    async def taken(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a tenant's turn, and have it for the block."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._queue.push(tenant, turn)
        self._next()
        try:
            await turn
            yield
        finally:
            if turn.cancelled():
                self._queue.remove([turn])
            else:
                loop.call_soon(self._end)

    def _end(self) -> None:
        self._queue.set_running({})
        self._next()

    def _next(self) -> None:
        while (found := self._queue.next()) is not None:
            tenant, turn = found
            self._queue.start(tenant)
            if not turn.cancelled():
                self._queue.charge(tenant, 1)
                turn.set_result(None)
                return
            self._queue.set_running({})  # cancelled just now: it has not left yet


class ShareOfLoop:
    """Bounds what a tenant's streams bring in one iteration of the event loop; more of it takes turns.

    Whoever makes a stream's events makes all that are due without a pause, and nobody is answered meanwhile.
    """

    def __init__(self, most_bytes: int = 4096) -> None:
        """``most_bytes`` is what a tenant brings in an iteration before its streams wait."""
        self._most_bytes = most_bytes
        self._turns = TenantTurns()
        self._brought: Counter[str] = Counter()  # in this iteration

    async def note(self, tenant: str, size_bytes: int) -> None:
        """Count what a stream has just brought; return when it may bring more."""
        if not self._brought:
            asyncio.get_running_loop().call_soon(self._brought.clear)
        self._brought[tenant] += size_bytes
        if self._brought[tenant] >= self._most_bytes:
            async with self._turns.taken(tenant):
                pass  # the turn goes on until the stream waits
