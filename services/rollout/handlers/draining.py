"""Shutdown of a service with long-running handlers."""

import asyncio
from collections.abc import Callable

from mint_common.runtime.dispatch import Dispatcher


async def run_until_drained(work: Dispatcher, drain: Callable[[], None]) -> None:
    """Run a dispatcher; when cancelled, make its handlers give their messages back first."""
    running = asyncio.ensure_future(work.run())
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        drain()
        running.cancel()
        await running
        raise
