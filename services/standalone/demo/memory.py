"""Watches how much memory a whole stack holds."""

import asyncio

import psutil

SAMPLE_SECONDS = 1.0
MEGABYTE = 2**20


class MemoryWatch:
    """Samples the resident memory of this process and all that it started; shared pages count in each."""

    def __init__(self) -> None:
        self.peak_mb = 0.0

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.peak_mb = max(self.peak_mb, await asyncio.to_thread(_resident_mb))
            await asyncio.sleep(SAMPLE_SECONDS)


def _resident_mb() -> float:
    total = 0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / MEGABYTE
