"""What becomes of items when their flushing ends: an answer, for each."""

import asyncio
from collections.abc import Sequence

import pytest

from mint_common.errors import Unavailable
from services.trainer.handlers.group_commit import GroupCommit


async def test_nothing_waits_for_a_commit_that_has_ended() -> None:
    begun = asyncio.Event()

    async def flush(items: Sequence[int]) -> Sequence[int]:
        begun.set()
        await asyncio.Event().wait()
        return items

    commit = GroupCommit(flush, most=1)
    running = asyncio.create_task(commit.run())
    puts = [asyncio.create_task(commit.put(item)) for item in (1, 2)]
    await begun.wait()
    running.cancel()
    async with asyncio.timeout(5):
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable, Unavailable]
        with pytest.raises(Unavailable):
            await commit.put(3)
