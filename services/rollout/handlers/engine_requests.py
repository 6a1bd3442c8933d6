"""Calls of engines and trainers: many at a time, asked again while one is away or full, but not for ever."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from mint_common.client.attempts import CallAttempts
from mint_common.errors import MintError
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import FairGate
from mint_common.waiting import cancel_all

log = logging.getLogger(__name__)

T = TypeVar("T")

ANSWER_SECONDS = 6 * 3600.0
"""Deadline of an answer after its first call. A call may take long, and an engine may be away or full for
long."""


class EngineRequests:
    """At most ``in_flight`` calls of a tenant at a time.

    All tenants together have at most a quarter more, so that one tenant's calls delay no other's; when
    several use all of it, the next seat goes to the tenant with the fewest. A caller that no longer needs
    its call cancels it.
    """

    def __init__(self, clock: Clock, *, in_flight: int) -> None:
        self._clock = clock
        self._turns = FairGate(in_flight + max(1, in_flight // 4), limit=in_flight)

    async def retried(self, tenant_id: TenantId, ask: Callable[[], Awaitable[T]]) -> T:
        """Call for a tenant until there is an answer, or `CallAttempts` gives up. Raises as that does."""
        attempts: CallAttempts | None = None
        while True:
            try:
                async with self._turns.turn(tenant_id):
                    attempts = attempts or CallAttempts(
                        began_at=self._clock.monotonic(), limit_seconds=ANSWER_SECONDS
                    )
                    return await self._in_time(ask(), attempts)
            except MintError as error:
                if attempts is None:
                    raise
                attempts, wait = attempts.after(error, now=self._clock.monotonic())
                log.info("engine or trainer asked again later", extra={"reason": str(error), "seconds": wait})
            await self._clock.sleep(wait)

    async def _in_time(self, call: Awaitable[T], attempts: CallAttempts) -> T:
        """Return the answer of a call. Raises NoAnswer when it comes too late."""
        calling = asyncio.ensure_future(call)
        left = attempts.seconds_left(now=self._clock.monotonic())
        deadline = asyncio.ensure_future(self._clock.sleep(left))
        try:
            await asyncio.wait((calling, deadline), return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                raise attempts.given_up("the call does not end", now=self._clock.monotonic())
            return calling.result()
        finally:
            await cancel_all(calling, deadline)


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all concurrently and return their results in order; the first failure cancels the others."""
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancel_all(*tasks)
