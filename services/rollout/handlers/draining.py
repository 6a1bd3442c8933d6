"""The end of a service that has long work in hand."""

import asyncio
from collections.abc import Callable

from mint_common.runtime.dispatch import Dispatcher


async def run_until_drained(work: Dispatcher, drain: Callable[[], None]) -> None:
    """Run a dispatcher; when cancelled, have its handlers put down what they have in hand."""
    running = asyncio.ensure_future(work.run())
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        drain()
        running.cancel()
        await running
        raise
