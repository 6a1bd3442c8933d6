"""Waves of one tenant leave turns to those of others."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from mint_common.events import WaveRequested
from mint_common.ids import JobId, PolicyId, TenantId
from mint_common.runtime.dispatch import publish_event
from mint_common.testing.bus_memory import MemoryBus
from mint_common.testing.factories import TENANT
from services.rollout.app import dispatch
from tests.unit.rollout.rig import STALL_SECONDS, Rig
from tests.unit.rollout.world import LocalTasks, submitted

FLOOD = TenantId("ten_flood")
STUCK = "mode:rev"
JOBS = 20


class StuckTasks(LocalTasks):
    """Tasks of which the flood's never gives a reward."""

    async def score(
        self, name: str, answers: Sequence[tuple[str, str]], *, tenant_id: TenantId
    ) -> list[float]:
        """Return rewards, or never."""
        if name == STUCK:
            await asyncio.Event().wait()
        return await super().score(name, answers, tenant_id=tenant_id)


async def begun(
    rig: Rig, bus: MemoryBus, name: str, *, tenant_id: TenantId = TENANT, task: str = "mode:copy"
) -> WaveRequested:
    """Put the first wave of a new job on the bus."""
    event = submitted(job_id=JobId(f"job_{name}"), policy_id=PolicyId(f"pol_{name}"), task=task)
    wave = await rig.begin(replace(event, tenant_id=tenant_id))
    await publish_event(bus, wave, cause=event.id, now=rig.clock.now())
    return wave


async def test_a_tenant_s_slow_waves_never_take_all_turns() -> None:
    rig = Rig(tasks=StuckTasks())
    bus = MemoryBus(rig.clock)
    for number in range(JOBS):
        await begun(rig, bus, f"flood{number}", tenant_id=FLOOD, task=STUCK)
    other = await begun(rig, bus, "other")
    _, work = dispatch(rig.of_jobs, rig.of_waves, bus, rig.clock)
    working = asyncio.create_task(work.run())
    try:
        for _ in range(3 * int(STALL_SECONDS)):
            await rig.clock.advance(1.0)
        assert await rig.ledger.is_known(other.id)
        # A wave that waits is no silence of its job.
        now = rig.clock.now()
        stalled = await rig.jobs.claim_stalled(before=now - STALL_SECONDS, waiting_since=None, now=now)
        assert {job.job_id for job in stalled} <= {other.job_id}
    finally:
        await bus.close()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
