"""Outputs that are read ahead of a slow reader."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from services.loader.adapters.vllm.openai.request_outputs import read_ahead


class Joining:
    """Outputs that join while nobody takes them, as vLLM's do; ``fails`` ends them with an error."""

    def __init__(self, *, fails: bool = False) -> None:
        self._fails = fails
        self._waiting: list[int] = []
        self._news = asyncio.Event()
        self.is_closed = False

    def bring(self, number: int) -> None:
        """Bring one more output."""
        self._waiting.append(number)
        self._news.set()

    async def outputs(self) -> AsyncGenerator[list[int], None]:
        """Yield what has come since the last one, until -1 comes."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                come, self._waiting = self._waiting, []
                if come == [-1]:
                    break
                yield come
            if self._fails:
                raise ValueError("lost")
        finally:
            self.is_closed = True


async def bring(source: Joining, *numbers: int) -> None:
    for number in numbers:
        source.bring(number)
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.mark.parametrize("fails", [False, True])
async def test_what_comes_while_nobody_reads_stays_apart_and_the_end_is_told_last(fails: bool) -> None:
    source = Joining(fails=fails)
    ahead = read_ahead(source.outputs())
    source.bring(0)
    found = [await anext(ahead)]
    source.bring(1)
    found.append(await anext(ahead))
    await bring(source, 2, 3, 4, -1)
    found += [await anext(ahead) for _ in range(3)]
    with pytest.raises(ValueError if fails else StopAsyncIteration):
        await anext(ahead)
    assert found == [[0], [1], [2], [3], [4]]


async def test_a_reader_that_leaves_closes_the_outputs() -> None:
    for read in (0, 1, 2):
        source = Joining()
        ahead = read_ahead(source.outputs())
        for number in range(read):
            source.bring(number)
            await anext(ahead)
        waiting = asyncio.create_task(anext(ahead))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await ahead.aclose()
        assert source.is_closed


async def test_a_reader_that_is_cancelled_twice_leaves_nothing_that_still_reads() -> None:
    ending, goes_on = asyncio.Event(), asyncio.Event()
    closed: list[bool] = []

    async def outputs() -> AsyncGenerator[int, None]:
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            ending.set()
            await goes_on.wait()  # as vLLM's abort does
            closed.append(True)

    ahead = read_ahead(outputs())
    assert await anext(ahead) == 0
    waiting = asyncio.create_task(anext(ahead))
    await asyncio.sleep(0)
    waiting.cancel()
    await ending.wait()
    waiting.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await ahead.aclose()
    assert closed == [True]
    assert asyncio.all_tasks() == {asyncio.current_task()}
