"""Reads that belong to no operation and that a process may die of: of a wave's records, of a policy's state.

Invariants: a read is counted in its row before it begins, and no longer than it lasts. What a killed process
was reading is read apart, one at a time, so that it counts its own kills only.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress

from mint_common.errors import MintError
from mint_common.runtime.clock import Clock
from services.trainer.adapters.operations_postgres import PostgresOperations
from services.trainer.core.ranks import RankLost


class CountedReads:
    """The counted reads of this process, by the id of what is read."""

    def __init__(self, store: PostgresOperations, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._apart = asyncio.Lock()
        self._own: set[str] = set()

    @asynccontextmanager
    async def counted(self, name: str, *, limit: int, refusal: MintError) -> AsyncIterator[None]:
        """Count a read until the block ends. Raises ``refusal`` after ``limit`` killed processes."""
        # What an outage kept from being forgotten is no kill.
        killed = await self._store.begun_reads(name) - (name in self._own)
        if killed >= limit:
            raise refusal
        async with self._apart if killed else nullcontext():
            if name not in self._own:
                await self._store.begin_counted_read(name, now=self._clock.now())
                self._own.add(name)
            ends_process = False
            try:
                yield
            except RankLost:
                ends_process = True
                raise
            finally:
                if not ends_process:
                    await self.forget(name)

    async def forget(self, name: str) -> None:
        """Record that something can be read."""
        with suppress(MintError):
            await self._store.end_counted_read(name)
            self._own.discard(name)
