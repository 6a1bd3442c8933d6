"""Work that arrives while a lease's term ends."""

import asyncio
import gc
import warnings

import pytest

from mint_common.errors import Unavailable
from services.trainer.handlers.lease_term import begin_task


async def test_work_that_arrives_while_a_term_ends_is_left_to_the_next_one() -> None:
    began, end, is_done = asyncio.Event(), asyncio.Event(), False

    async def slow_to_end() -> None:
        try:
            began.set()
            await asyncio.sleep(60)
        finally:
            await end.wait()

    async def work() -> None:
        nonlocal is_done
        is_done = True

    async def fail() -> None:
        await began.wait()
        raise Unavailable(what="the store", problem="gone")

    groups: list[asyncio.TaskGroup] = []

    async def term() -> None:
        async with asyncio.TaskGroup() as group:
            groups.append(group)
            begin_task(group, slow_to_end())
            begin_task(group, fail())

    running = asyncio.create_task(term())
    await began.wait()
    await asyncio.sleep(0.01)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(Unavailable, match="its term ends"):
            begin_task(groups[0], work())
        gc.collect()
    assert not seen, "no coroutine is left without an end"
    end.set()
    with pytest.raises(ExceptionGroup):
        await running
    assert not is_done
