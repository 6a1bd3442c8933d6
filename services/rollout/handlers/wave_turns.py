"""Turns of waves, shared by tenants."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mint_common.errors import Overloaded
from mint_common.ids import TenantId
from mint_common.runtime.tenant_limiter import TenantLimiter

DELIVERIES_A_TURN = 4
"""Waves that are taken from the bus, for each that has its turn; the others wait, and their jobs know it."""
_RETRY_SECONDS = 2.0


def deliveries_of(in_hand: int) -> int:
    """Return how many waves are taken from the bus at a time."""
    return DELIVERIES_A_TURN * in_hand


class WaveTurns:
    """``in_hand`` waves at a time, of which a tenant leaves a quarter, and one at least, to others.

    A tenant has at most half of the waves that are taken from the bus.
    """

    def __init__(self, in_hand: int) -> None:
        self._limiter = TenantLimiter(in_hand, of_a_tenant=max(1, in_hand - max(1, in_hand // 4)))
        self._most_taken = deliveries_of(in_hand) // 2

    @asynccontextmanager
    async def turn(self, tenant_id: TenantId) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Raises Overloaded for a wave that the bus is to keep for now."""
        if self._limiter.count(tenant_id) >= self._most_taken:
            what, depth = "the turns of one tenant's waves", self._most_taken
            raise Overloaded(what=what, depth=depth, retry_after_seconds=_RETRY_SECONDS)
        async with self._limiter.turn(tenant_id):
            yield
