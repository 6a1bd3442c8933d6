"""Turns of tenants at work that few may do at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from mint_common.ids import TenantId


class TenantLocks:
    """At most ``most`` turns at a time, and one of each tenant: whoever sends much waits behind itself."""

    def __init__(self, *, most: int) -> None:
        self._turns = asyncio.Semaphore(most)
        self._tenants: WeakValueDictionary[TenantId, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, tenant_id: TenantId) -> AsyncIterator[None]:
        """Wait for a turn, which is over at the end of the block."""
        # Kept by those who hold it or wait for it.
        lock = self._tenants.setdefault(tenant_id, asyncio.Lock())
        async with lock, self._turns:
            yield
