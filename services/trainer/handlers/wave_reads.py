"""Counts the reads of waves' records that a process has begun and not ended: it may have died of one.

A read is in its row before it begins, and no longer than it lasts. A wave that a killed process was reading
is read apart, one of them at a time, so that it counts its own kills only.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress

from mint_common.errors import MintError
from mint_common.events import WaveCompleted
from mint_common.ids import WaveId
from services.trainer.core.refusals import RecordInvalid
from services.trainer.handlers.lease_term import OperationParts

MAX_WAVE_READS = 3
"""Maximum ends of the process while a wave's records are read, before its job fails."""


class WaveReads:
    """The reads of one base's waves."""

    def __init__(self, parts: OperationParts) -> None:
        self._store = parts.store
        self._clock = parts.clock
        self._apart = asyncio.Lock()
        self._own: set[WaveId] = set()

    @asynccontextmanager
    async def counted(self, wave: WaveCompleted) -> AsyncIterator[None]:
        """Count a read until the block ends. Raises RecordInvalid after `MAX_WAVE_READS` killed processes."""
        wave_id = wave.wave_id
        # What an outage kept from being forgotten is no kill.
        killed = await self._store.wave_reads(wave_id) - (wave_id in self._own)
        if killed >= MAX_WAVE_READS:
            problem = f"the trainer ended {MAX_WAVE_READS} times while it was read"
            raise RecordInvalid(where=wave.record.uri, problem=problem)
        async with self._apart if killed else nullcontext():
            if wave_id not in self._own:
                await self._store.begin_wave_read(wave_id, now=self._clock.now())
                self._own.add(wave_id)
            try:
                yield
            finally:
                with suppress(MintError):
                    await self._store.end_wave_read(wave_id)
                    self._own.discard(wave_id)
