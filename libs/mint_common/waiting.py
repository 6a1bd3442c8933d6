"""Waiting for something, but not longer than a while, and never past a cancellation."""

import asyncio
from typing import Any, Protocol


class Sleeper(Protocol):
    """Something that can wait; see `mint_common.runtime.clock.Clock`."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


async def wait_for_event(event: asyncio.Event, *, clock: Sleeper, seconds: float) -> bool:
    """Wait until the event is set or the time is over; return whether it is set."""
    waiter = asyncio.ensure_future(event.wait())
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((waiter, timer), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_all(waiter, timer)
    return event.is_set()


async def cancel_all(*tasks: "asyncio.Future[Any]") -> None:  # Any: whatever they return
    """Cancel tasks, and wait until they have ended, whatever they end with."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def raise_if_cancelled() -> None:
    """Raise the cancellation of the current task that a library has swallowed.

    `asyncio.wait_for` of Python 3.11 does when the cancellation meets the result; nats-py awaits every answer
    of the server with it. Every loop that continues after an error calls this first, or a shutdown hangs in
    it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
