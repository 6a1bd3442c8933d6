"""A cancellation that a library swallows still ends what runs for ever."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import pytest

from mint_common.bus.port import Delivery
from mint_common.client.directory import EngineDirectory
from mint_common.errors import Unavailable
from mint_common.events import JobFinished
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.dispatch import Dispatcher
from mint_common.runtime.periodic import run_periodically
from mint_common.runtime.relay import OutboxRelay
from tests.testing.bus_memory import MemoryBus


async def swallow() -> None:
    """Wait as `asyncio.wait_for` of Python 3.11 may: a cancellation comes out as the trouble that it met."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise Unavailable(what="the other side", problem="it went away") from None


class SwallowingBus(MemoryBus):
    """A bus that never subscribes."""

    @asynccontextmanager
    async def subscribe(self, **_: Any) -> AsyncIterator[AsyncIterator[Delivery]]:  # Any: ignored
        """Wait for ever."""
        await swallow()
        yield cast(AsyncIterator[Delivery], None)

    @asynccontextmanager
    async def watch(self, **_: Any) -> AsyncIterator[Any]:  # Any: ignored
        """Wait for ever."""
        await swallow()
        yield None


class SwallowingPool:
    """A pool that never has a connection."""

    async def acquire(self, **_: Any) -> None:  # Any: ignored
        """Wait for ever."""
        await swallow()


async def handle(_: JobFinished) -> Sequence[JobFinished]:
    return ()


def relay() -> Callable[[], Awaitable[None]]:
    clock = SystemClock()
    return OutboxRelay(cast(asyncpg.Pool, SwallowingPool()), MemoryBus(clock), clock).run


def dispatcher() -> Callable[[], Awaitable[None]]:
    clock = SystemClock()
    made = Dispatcher(bus=SwallowingBus(clock), ledger=None, durable="test", clock=clock)
    made.on(JobFinished, handle)
    return made.run


def directory() -> Callable[[], Awaitable[None]]:
    bus = SwallowingBus(SystemClock())
    return lambda: EngineDirectory([], token="secret").follow(bus)


def periodic() -> Callable[[], Awaitable[None]]:
    clock = SystemClock()
    return lambda: run_periodically(swallow, name="test", every_seconds=1, clock=clock)


@pytest.mark.parametrize("make", [relay, dispatcher, directory, periodic])
async def test_a_swallowed_cancellation_still_ends_the_work(make: Callable[[], Any]) -> None:
    task = asyncio.ensure_future(make()())
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=30)
    if not done:
        task.cancel()
    assert done
    assert task.cancelled()
