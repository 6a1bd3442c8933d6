"""Who uploads when: no tenant is the whole line, and nobody holds it up by being silent."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mint_common.errors import UploadRefused
from mint_common.ids import TenantId
from mint_common.runtime.slow_clients import LeastRate
from mint_common.runtime.tenant_limiter import TenantLimiter
from mint_common.testing.clock import settle
from services.registry.handlers.uploads import unstalled

LOUD, OTHER = TenantId("ten_loud"), TenantId("ten_other")


async def test_flood_of_one_tenant_leaves_room_for_another() -> None:
    turns, done = TenantLimiter(4, of_a_tenant=2), asyncio.Event()
    entered: list[TenantId] = []

    async def upload(tenant_id: TenantId) -> None:
        async with turns.turn(tenant_id):
            entered.append(tenant_id)
            await done.wait()

    async with asyncio.TaskGroup() as group:
        for tenant_id in [LOUD] * 50 + [OTHER] * 3:
            group.create_task(upload(tenant_id))
        await settle()
        assert entered == [LOUD, LOUD, OTHER, OTHER]
        done.set()
    assert len(entered) == 53
    assert not turns._own, "nothing is kept of who has gone"


async def test_cancelled_upload_gives_its_turn_back() -> None:
    turns = TenantLimiter(1, of_a_tenant=1)

    async def stay() -> None:
        async with turns.turn(LOUD):
            await asyncio.Event().wait()

    tasks = [asyncio.ensure_future(stay()) for _ in range(3)]
    await settle()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(30), turns.turn(LOUD):
        assert len(turns._own) == 1


async def test_body_that_stops_is_refused_and_one_that_goes_on_is_not() -> None:
    async def body(pause: asyncio.Event) -> AsyncIterator[bytes]:
        yield b"a"
        await pause.wait()
        yield b"b"

    silent, going = asyncio.Event(), asyncio.Event()
    going.set()
    rate = LeastRate(bytes_per_second=10, grace_seconds=5, stall_seconds=0.1)
    assert [part async for part in unstalled(body(going), rate)] == [b"a", b"b"]
    with pytest.raises(UploadRefused) as refused:
        assert [part async for part in unstalled(body(silent), rate)] == []
    assert refused.value.code == "upload_refused.stalled"


async def test_body_that_comes_drop_by_drop_ends_in_time() -> None:
    async def drops() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.02)
            yield b"x"

    patient = LeastRate(bytes_per_second=10, grace_seconds=5, stall_seconds=5)
    with pytest.raises(UploadRefused, match=r"did not end in 0\.2 s"):
        assert [part async for part in unstalled(drops(), patient, in_all=0.2)] == []
    with pytest.raises(UploadRefused, match="bytes came in 0"):
        assert [
            part
            async for part in unstalled(drops(), replace(patient, bytes_per_second=1000, grace_seconds=0.1))
        ] == []
