"""Calls of engines: one tenant's hold up no other's."""

import asyncio

from mint_common.ids import TenantId
from mint_common.testing.clock import ManualClock, settle
from services.rollout.handlers.engine_requests import EngineRequests

FLOOD, OTHER = TenantId("ten_flood"), TenantId("ten_other")


async def test_a_tenant_s_calls_never_hold_up_another_s() -> None:
    requests, begun = EngineRequests(ManualClock(0.0), in_flight=2), 0

    async def never() -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    async def answer() -> str:
        return "an answer"

    flood = [asyncio.ensure_future(requests.retried(FLOOD, never)) for _ in range(50)]
    await settle()
    assert begun == 2
    async with asyncio.timeout(60):
        assert await requests.retried(OTHER, answer) == "an answer"
    for call in flood:
        call.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
