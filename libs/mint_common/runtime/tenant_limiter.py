"""Turns of tenants at work with few places: a tenant's requests wait only behind its own."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mint_common.errors import Overloaded
from mint_common.ids import TenantId


class TenantLimiter:
    """Admits at most ``at_once`` callers at a time, and at most ``of_a_tenant`` of one tenant.

    Of those that wait, the one whose tenant has the fewest admitted is next, in the order of arrival. Memory
    is bounded by the tenants that wait or are admitted now.
    """

    def __init__(self, at_once: int, *, of_a_tenant: int) -> None:
        self._free = at_once
        self._of_a_tenant = of_a_tenant
        self._own: dict[TenantId, asyncio.Semaphore] = {}
        self._here: Counter[TenantId] = Counter()
        self._admitted: Counter[TenantId] = Counter()
        self._waiting: dict[asyncio.Future[None], TenantId] = {}

    def count(self, tenant_id: TenantId) -> int:
        """Return how many callers of a tenant wait or are admitted."""
        return self._here[tenant_id]

    @asynccontextmanager
    async def turn(
        self, tenant_id: TenantId, *, depth: int | None = None, what: str = ""
    ) -> AsyncIterator[None]:
        """Wait for admission and hold it.

        Raises Overloaded, which calls it ``what``, when ``depth`` of the tenant wait or are admitted.
        """
        if depth is not None and self._here[tenant_id] >= depth:
            raise Overloaded(what=what, depth=self._here[tenant_id], retry_after_seconds=1)
        own = self._own.setdefault(tenant_id, asyncio.Semaphore(self._of_a_tenant))
        self._here[tenant_id] += 1
        try:
            async with own, self._seat(tenant_id):
                yield
        finally:
            self._here[tenant_id] -= 1
            if not self._here[tenant_id]:
                del self._here[tenant_id], self._own[tenant_id], self._admitted[tenant_id]

    @asynccontextmanager
    async def _seat(self, tenant_id: TenantId) -> AsyncIterator[None]:
        seat: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[seat] = tenant_id
        self._admit()
        try:
            await seat
            yield
        finally:
            if self._waiting.pop(seat, None) is None:  # it was admitted, even if it is cancelled by now
                self._admitted[tenant_id] -= 1
                self._free += 1
            self._admit()

    def _admit(self) -> None:
        while self._free and (waiting := [seat for seat in self._waiting if not seat.done()]):
            seat = min(waiting, key=lambda each: self._admitted[self._waiting[each]])
            self._admitted[self._waiting.pop(seat)] += 1
            self._free -= 1
            seat.set_result(None)
