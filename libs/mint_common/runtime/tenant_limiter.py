"""Turns of tenants at work that few may do at a time: whoever sends much waits behind itself."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mint_common.ids import TenantId


class TenantLimiter:
    """Admits at most ``at_once`` callers at a time, and at most ``of_a_tenant`` of one tenant.

    Memory is bounded by the tenants that wait or are admitted now.
    """

    def __init__(self, at_once: int, *, of_a_tenant: int) -> None:
        self._all = asyncio.Semaphore(at_once)
        self._of_a_tenant = of_a_tenant
        self._own: dict[TenantId, asyncio.Semaphore] = {}
        self._here: Counter[TenantId] = Counter()

    def count(self, tenant_id: TenantId) -> int:
        """Return how many callers of a tenant wait or are admitted."""
        return self._here[tenant_id]

    @asynccontextmanager
    async def turn(self, tenant_id: TenantId) -> AsyncIterator[None]:
        """Wait for admission and hold it."""
        own = self._own.setdefault(tenant_id, asyncio.Semaphore(self._of_a_tenant))
        self._here[tenant_id] += 1
        try:
            async with own, self._all:
                yield
        finally:
            self._here[tenant_id] -= 1
            if not self._here[tenant_id]:
                del self._here[tenant_id], self._own[tenant_id]
