"""Whether processes have ended: one that is not reaped yet, a zombie, has."""

import asyncio
from collections.abc import Iterable

import psutil

END_SECONDS = 60.0


def has_ended(pid: int) -> bool:
    """Return whether no such process runs."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until_ended(processes: Iterable[psutil.Process]) -> None:
    """Wait until none of these runs. Raises TimeoutError."""
    async with asyncio.timeout(END_SECONDS):
        for process in processes:
            while process.is_running() and not has_ended(process.pid):
                await asyncio.sleep(0.02)
