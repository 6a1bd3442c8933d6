"""Watches how much memory a whole stack holds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import psutil

from mint_common.waiting import cancel_all

SAMPLE_SECONDS = 1.0
MEGABYTE = 2**20


class PeakMemory:
    """The most resident memory that was seen."""

    mb = 0.0


@contextlib.asynccontextmanager
async def watched_memory() -> AsyncIterator[PeakMemory]:
    """Sample this process and all that it started inside the block; shared pages count in each."""
    peak = PeakMemory()

    async def sample() -> None:
        while True:
            peak.mb = max(peak.mb, await asyncio.to_thread(_resident_mb))
            await asyncio.sleep(SAMPLE_SECONDS)

    watching = asyncio.create_task(sample())
    try:
        yield peak
    finally:
        await cancel_all(watching)


def _resident_mb() -> float:
    total = 0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / MEGABYTE
