"""Calls of engines and trainers: bounded, retried while one is away or full, many at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from mint_common.errors import MintError
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.tenant_limiter import TenantLimiter
from mint_common.waiting import cancel_all

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 5.0


class EngineRequests:
    """At most ``in_flight`` calls of a tenant at a time.

    Of all tenants there are a quarter more at most, so that one tenant's calls hold up no other's; where
    several take all of it, the next seat goes to the tenant with the fewest. Who waits for a call that nobody
    needs any more cancels it.
    """

    def __init__(self, clock: Clock, *, in_flight: int) -> None:
        self._clock = clock
        self._turns = TenantLimiter(in_flight + max(1, in_flight // 4), of_a_tenant=in_flight)

    async def retried(self, tenant_id: TenantId, ask: Callable[[], Awaitable[T]]) -> T:
        """Call for a tenant until there is an answer. Raises errors that a later call would meet again."""
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                async with self._turns.turn(tenant_id):
                    return await ask()
            except MintError as error:
                if not error.retryable:
                    raise
                log.info("engine or trainer asked again later", extra={"reason": str(error), "seconds": wait})
            await self._clock.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all concurrently and return their results in order; the first failure cancels the others."""
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancel_all(*tasks)
