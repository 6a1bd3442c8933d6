"""Turns at the work that events ask for, shared by tenants."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mint_common.errors import Overloaded
from mint_common.ids import TenantId
from mint_common.runtime.tenant_limiter import TenantLimiter

DELIVERIES_A_TURN = 4
"""Events that are taken from the bus, for each that has its turn; the others wait, and their jobs know it."""
_RETRY_SECONDS = 2.0


class WaveTurns:
    """``in_hand`` at a time, of which a tenant leaves a quarter, and one at least, to others.

    ``deliveries`` are taken from the bus at a time, at most half of them of one tenant. ``what`` names the
    work to who is sent away.
    """

    def __init__(self, in_hand: int, *, what: str) -> None:
        self.deliveries = DELIVERIES_A_TURN * in_hand
        self._what = what
        self._limiter = TenantLimiter(in_hand, of_a_tenant=max(1, in_hand - max(1, in_hand // 4)))

    @asynccontextmanager
    async def turn(self, tenant_id: TenantId) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Raises Overloaded for an event that the bus is to keep for now."""
        most = self.deliveries // 2
        if self._limiter.count(tenant_id) >= most:
            raise Overloaded(what=self._what, depth=most, retry_after_seconds=_RETRY_SECONDS)
        async with self._limiter.turn(tenant_id):
            yield
