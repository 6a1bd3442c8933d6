"""One turn of a tenant at a time, few in all; a check of rows ends with its request."""

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from mint_common.ids import TenantId
from mint_common.runtime.tenant_limiter import TenantLimiter
from mint_common.testing.clock import settle
from services.gateway.adapters.rows_check import RowsCheckProcess


async def test_a_tenant_that_sends_much_waits_behind_itself_alone() -> None:
    turns, begun, ends = TenantLimiter(2, of_a_tenant=1), list[str](), asyncio.Event()

    async def work(tenant: str) -> None:
        async with turns.turn(TenantId(tenant)):
            begun.append(tenant)
            await ends.wait()

    async with asyncio.TaskGroup() as group:
        for tenant in ("a", "a", "a", "b", "c"):
            group.create_task(work(tenant))
        for _ in range(10):
            await asyncio.sleep(0)
        assert begun == ["a", "b"]
        ends.set()
    assert begun.index("c") < 4
    assert sorted(begun) == ["a", "a", "a", "b", "c"]


async def test_a_seat_that_gets_free_goes_to_who_has_the_fewest() -> None:
    turns, begun = TenantLimiter(5, of_a_tenant=4), list[str]()
    ends = {tenant: asyncio.Event() for tenant in "abc"}

    async def work(tenant: str) -> None:
        async with turns.turn(TenantId(tenant)):
            begun.append(tenant)
            await ends[tenant].wait()

    async with asyncio.TaskGroup() as group:
        working = [group.create_task(work(tenant)) for tenant in "aaaabbbbaaac"]
        await settle()
        assert begun == ["a", "a", "a", "a", "b"]
        working[0].cancel()
        await settle()
        assert begun[5:] == ["c"]
        working[-2].cancel()
        working[5].cancel()  # those that wait
        working[1].cancel()
        await settle()
        assert begun[6:] == ["b"]
        for event in ends.values():
            event.set()
    assert sorted(begun[7:]) == ["a", "a", "b"]
    assert (turns._free, turns._waiting, turns._admitted) == (5, {}, {})


async def test_a_cancelled_check_leaves_no_process(tmp_path: Path) -> None:
    fifo = tmp_path / "rows"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)  # the process waits for what never comes
    checking = asyncio.create_task(RowsCheckProcess().check(fifo))
    before = set(psutil.Process().children())
    while not (started := set(psutil.Process().children()) - before) and not checking.done():
        await asyncio.sleep(0.01)
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    assert started
    assert not started & set(psutil.Process().children())
    os.close(writer)
