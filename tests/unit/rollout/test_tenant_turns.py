"""Waves and draws of one tenant leave turns to those of others."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from mint_common.events import WaveRequested
from mint_common.ids import JobId, PolicyId, TenantId
from mint_common.records import Prompt
from mint_common.runtime.dispatch import publish_event
from services.rollout.core.task import Split
from services.rollout.handlers.dispatching import dispatch
from tests.testing.bus_memory import MemoryBus
from tests.testing.factories import TENANT
from tests.testing.ledger_memory import MemoryLedger, MemoryTransaction
from tests.unit.rollout.rig import STALL_SECONDS, Rig
from tests.unit.rollout.world import LocalTasks, published, submitted

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


class SlowDraws(LocalTasks):
    """Tasks of which the flood's takes for ever to draw."""

    async def draw(self, name: str, split: Split, n: int, seed: int, *, tenant_id: TenantId) -> list[Prompt]:
        """Return prompts, or never."""
        if name == STUCK:
            await asyncio.Event().wait()
        return await super().draw(name, split, n, seed, tenant_id=tenant_id)


async def test_a_tenant_s_slow_draws_hold_up_no_other_tenant_s_publications() -> None:
    rig = Rig(tasks=SlowDraws())
    bus = MemoryBus(rig.clock)
    other = await rig.begin(submitted())
    await rig.of_waves.on_wave_requested(other)
    for number in range(JOBS):
        event = submitted(job_id=JobId(f"job_{number}"), policy_id=PolicyId(f"pol_{number}"), task=STUCK)
        event = replace(event, tenant_id=FLOOD)
        await publish_event(bus, event, cause="test", now=rig.clock.now())
    await publish_event(bus, published(1), cause="test", now=rig.clock.now())
    short, _ = dispatch(rig.of_jobs, rig.of_waves, bus, rig.clock)
    working = [asyncio.create_task(short.run()), asyncio.create_task(rig.watchdog.run())]
    try:
        await rig.clock.advance(5.0)
        assert (await rig.jobs.job(other.job_id)).steps_done == 1
        await rig.clock.advance(3 * STALL_SECONDS)
        stuck = [(await rig.jobs.job(JobId(f"job_{number}"))).state.value for number in range(JOBS)]
        assert stuck == ["submitted"] * JOBS
    finally:
        await bus.close()
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


class SlowFirst(MemoryLedger):
    """A ledger in which the first cause takes long."""

    is_slow = True

    @asynccontextmanager
    async def transaction(self, cause: str) -> AsyncIterator[MemoryTransaction]:
        if self.is_slow:
            self.is_slow = False
            await self._clock.sleep(1.0)
        async with super().transaction(cause) as transaction:
            yield transaction


async def test_jobs_of_a_policy_begin_in_the_order_of_their_submission() -> None:
    rig = Rig()
    bus = MemoryBus(rig.clock)
    object.__setattr__(rig.commits, "ledger", SlowFirst(rig.clock))
    jobs = [JobId("job_z"), JobId("job_a"), JobId("job_m")]
    for job_id in jobs:
        await publish_event(bus, submitted(job_id=job_id), cause="test", now=rig.clock.now())
    short, _ = dispatch(rig.of_jobs, rig.of_waves, bus, rig.clock)
    working = asyncio.create_task(short.run())
    try:
        await rig.clock.advance(5.0)
        stored = [await rig.jobs.job(job_id) for job_id in jobs]
        assert [job.state.value for job in stored] == ["running", "submitted", "submitted"]
        assert sorted(jobs, key=lambda job_id: stored[jobs.index(job_id)].created_at) == jobs
    finally:
        await bus.close()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
