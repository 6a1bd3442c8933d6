"""A job outlives lost messages: the watchdog repeats what the job waits on."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from mint_common.bus.port import Message
from mint_common.errors import Unavailable
from mint_common.events import Event, JobFinished, WaveCompleted, WaveRequested
from mint_common.events.codec import decode
from mint_common.ids import JobId, PolicyId, TenantId
from mint_common.runtime.dispatch import Dispatcher
from mint_common.runtime.retries import Bury
from services.rollout.core.job import Job
from services.rollout.core.sampling import GroupRequest, SampledGroup
from services.rollout.handlers.dispatching import dispatch
from services.rollout.handlers.jobs import JobHandlers
from services.rollout.handlers.tenant_turns import event_gate
from services.rollout.handlers.waves import WaveHandlers
from tests.testing.bus_memory import MemoryBus
from tests.testing.clock import ManualClock
from tests.testing.factories import JOB
from tests.testing.ledger_memory import MemoryLedger, MemoryRelay
from tests.unit.rollout.memory_jobs import MemoryJobs
from tests.unit.rollout.rig import STALL_SECONDS, Rig
from tests.unit.rollout.world import ScriptedEngine, published, submitted, training_failed

STEPS = 4


class LossyBus(MemoryBus):
    """A bus that acknowledges and then forgets what a test tells it to."""

    def __init__(self, clock: ManualClock, loses: Callable[[Message], bool]) -> None:
        super().__init__(clock)
        self.lost = 0
        self._loses = loses

    async def publish(self, message: Message) -> None:
        if self._loses(message):
            self.lost += 1
            return
        await super().publish(message)


class Trainer:
    """Trainer and registry in one: every completed wave becomes a published revision, once."""

    def __init__(self, bus: LossyBus, clock: ManualClock) -> None:
        self.ledger = MemoryLedger(clock)
        self.relay = MemoryRelay(self.ledger, bus, clock)
        self.dispatcher = Dispatcher(bus=bus, ledger=self.ledger, durable="trainer", clock=clock)
        self.dispatcher.on(WaveCompleted, self.on_wave_completed, given_up=self.on_wave_given_up)
        self.bug: Exception | None = None

    async def on_wave_given_up(self, event: WaveCompleted, decision: Bury) -> None:
        async with self.ledger.transaction(event.id) as transaction:
            await transaction.emit(
                replace(training_failed(event.step), code=decision.code, reason=decision.reason)
            )

    async def on_wave_completed(self, event: WaveCompleted) -> Sequence[Event]:
        if self.bug is not None:
            raise self.bug
        async with self.ledger.transaction(event.id) as transaction:
            published_one = published(event.step, job_id=event.job_id)
            await transaction.emit(
                replace(published_one, policy_id=event.policy_id, tenant_id=event.tenant_id)
            )
        return ()


@asynccontextmanager
async def running(rig: Rig, bus: LossyBus) -> AsyncIterator[Trainer]:
    rig.bus = bus
    trainer = Trainer(bus, rig.clock)
    relay = MemoryRelay(rig.ledger, bus, rig.clock)
    control, work = dispatch(rig.of_jobs, rig.of_waves, bus, rig.clock)
    parts = (relay, control, work, rig.watchdog, trainer.relay, trainer.dispatcher)
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        yield trainer
    finally:
        await bus.close()
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


async def submit_until_taken(rig: Rig, bus: LossyBus) -> None:
    """Submit as the gateway does, again and again until rollout has taken the job."""
    event = submitted(steps=STEPS)
    gateway = MemoryLedger(rig.clock)
    async with gateway.transaction("req_1") as transaction:
        await transaction.emit(event)
    while not await rig.ledger.is_known(event.id):
        await gateway.repeat("req_1")
        await MemoryRelay(gateway, bus, rig.clock).publish_pending()
        await rig.clock.advance(1)


async def until_finished(rig: Rig, *, within_seconds: float) -> None:
    deadline = rig.clock.now() + within_seconds
    while (await rig.state_of())[0] in ("submitted", "running") and rig.clock.now() < deadline:
        await rig.clock.advance(1)


@pytest.mark.parametrize("seed", range(12))
async def test_a_job_finishes_on_a_bus_that_forgets_a_third_of_all_messages(seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig()
    bus = LossyBus(rig.clock, lambda message: rng.random() < 1 / 3)
    async with running(rig, bus) as trainer:
        await submit_until_taken(rig, bus)
        await until_finished(rig, within_seconds=100 * STALL_SECONDS)
    assert await rig.state_of() == ("succeeded", "")
    emitted = [decode(row.message.data)[1] for row in rig.ledger.rows]
    assert [event.step for event in emitted if isinstance(event, WaveRequested)] == [1, 2, 3, 4]
    assert [event.step for event in emitted if isinstance(event, WaveCompleted)] == [1, 2, 3, 4]
    assert len([event for event in emitted if isinstance(event, JobFinished)]) == 1
    assert len(trainer.ledger.rows) == STEPS
    assert len(rig.engine.requests) == 2 * STEPS
    assert bus.lost


async def test_a_bug_in_another_service_ends_the_job_with_its_reason() -> None:
    rig = Rig()
    bus = LossyBus(rig.clock, lambda message: False)
    async with running(rig, bus) as trainer:
        trainer.bug = ZeroDivisionError("division by zero")
        await submit_until_taken(rig, bus)
        await until_finished(rig, within_seconds=100 * STALL_SECONDS)
        revivals = rig.counts["revived"]
        await rig.clock.advance(100 * STALL_SECONDS)
    reason = "training failed (internal): ZeroDivisionError: division by zero"
    assert await rig.state_of() == ("failed", reason)
    assert rig.counts["revived"] == revivals


@pytest.mark.parametrize("part", ["wave", "publication", "start"])
async def test_a_bug_in_rollout_itself_ends_the_job_with_its_reason(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    bus = LossyBus(rig.clock, lambda message: False)
    bug = ZeroDivisionError("division by zero")

    async def broken(*args: object, **options: object) -> None:
        raise bug

    if part == "wave":
        monkeypatch.setattr(WaveHandlers, "_complete", broken)
    elif part == "publication":
        monkeypatch.setattr(JobHandlers, "on_revision_published", broken)
    else:
        rig.policies.latest = broken  # type: ignore[method-assign]  # a bug
    async with running(rig, bus):
        await submit_until_taken(rig, bus)
        await until_finished(rig, within_seconds=100 * STALL_SECONDS)
    state, reason = await rig.state_of()
    assert (state, "ZeroDivisionError: division by zero" in reason) == ("failed", True)


@pytest.mark.parametrize("lost", ["wave.requested", "wave.completed", "revision.published"])
async def test_one_lost_message_costs_one_stall(lost: str) -> None:
    losses = [lost]

    def loses(message: Message) -> bool:
        return bool(losses) and f".{losses[0]}." in message.subject and losses.pop() != ""

    rig = Rig()
    bus = LossyBus(rig.clock, loses)
    async with running(rig, bus):
        await submit_until_taken(rig, bus)
        await until_finished(rig, within_seconds=2 * STALL_SECONDS)
    assert await rig.state_of() == ("succeeded", "")
    assert rig.counts["revived"] == 1


async def test_a_job_that_moves_is_left_alone_and_a_repetition_does_not_chase_it() -> None:
    rig = Rig()
    bus = LossyBus(rig.clock, lambda message: False)
    async with running(rig, bus):
        await submit_until_taken(rig, bus)
        await until_finished(rig, within_seconds=STALL_SECONDS)
        messages = len(bus.messages)
        await rig.ledger.repeat(f"start:{JOB}")
        await rig.clock.advance(5)
    assert await rig.state_of() == ("succeeded", "")
    assert "revived" not in rig.counts
    assert messages == 1 + 3 * STEPS + 1
    assert len(bus.messages) == messages + 1


async def test_a_wave_in_hand_shows_signs_of_life_however_long_it_takes() -> None:
    rig = Rig()
    rig.engine.troubles = [Unavailable(what="an engine", problem="it restarts")] * 60
    bus = LossyBus(rig.clock, lambda message: False)
    async with running(rig, bus):
        await submit_until_taken(rig, bus)
        await rig.clock.advance(5 * STALL_SECONDS)
        assert "revived" not in rig.counts
        await until_finished(rig, within_seconds=100 * STALL_SECONDS)
    assert await rig.state_of() == ("succeeded", "")


class SlowEngine(ScriptedEngine):
    """Engines on which each group takes a while."""

    clock: ManualClock

    async def sample(self, request: GroupRequest) -> SampledGroup:
        await self.clock.sleep(STALL_SECONDS / 2)
        return await super().sample(request)


async def test_a_backlog_is_sampled_once_however_long_it_waits() -> None:
    rig = Rig(engine=SlowEngine())
    rig.engine.clock = rig.clock  # type: ignore[attr-defined]  # a slow engine
    jobs, steps = [JobId(f"job_{number}") for number in range(24)], 2
    bus = LossyBus(rig.clock, lambda message: False)
    async with running(rig, bus):
        for number, job_id in enumerate(jobs):
            event = submitted(job_id=job_id, policy_id=PolicyId(f"pol_{number}"), steps=steps)
            await rig.of_jobs.on_job_submitted(replace(event, tenant_id=TenantId(f"ten_{number % 8}")))
        for _ in range(60 * int(STALL_SECONDS)):
            await rig.clock.advance(1)
            if all([(await rig.state_of(job_id))[0] == "succeeded" for job_id in jobs]):
                break
    assert {await rig.state_of(job_id) for job_id in jobs} == {("succeeded", "")}
    assert len(rig.engine.requests) == 2 * steps * len(jobs)
    assert "revived" not in rig.counts


async def test_a_copy_of_a_wave_in_hand_is_not_sampled_nor_one_that_was_recorded_meanwhile() -> None:
    rig = Rig(engine=SlowEngine())
    rig.engine.clock = rig.clock  # type: ignore[attr-defined]  # a slow engine
    wave = await rig.begin(submitted())
    first = asyncio.create_task(rig.of_waves.on_wave_requested(wave))
    await rig.clock.advance(1)
    await rig.of_waves.on_wave_requested(wave)
    assert not first.done()
    elsewhere = replace(rig.of_waves, turns=event_gate(1, what="waves"))
    async with elsewhere.turns.turn(TenantId("ten_other")):
        second = asyncio.create_task(elsewhere.on_wave_requested(wave))
        await rig.clock.advance(3 * STALL_SECONDS)
        assert (first.done(), second.done()) == (True, False)
    await second
    assert len(rig.engine.requests) == 2


async def test_a_job_whose_turn_was_lost_is_started() -> None:
    rig = Rig()
    second = JobId("job_second")
    await rig.begin(submitted())
    await rig.of_jobs.on_job_submitted(submitted(job_id=second))
    await rig.commits.cancel(JOB)  # and its job.finished never arrives
    await rig.clock.advance(2 * STALL_SECONDS)
    await rig.watchdog.revive()
    await rig.watchdog.start()
    assert await rig.state_of(second) == ("running", "")


async def test_an_outage_of_the_database_does_not_end_the_watchdog() -> None:
    rig = Rig()
    outages = [Unavailable(what="postgres", problem="it restarts")]

    async def claim_stalled(*, before: float, waiting_since: float | None, now: float) -> list[Job]:
        if outages:
            raise outages.pop()
        return await MemoryJobs.claim_stalled(rig.jobs, before=before, waiting_since=waiting_since, now=now)

    await rig.begin(submitted())
    rig.jobs.claim_stalled = claim_stalled  # type: ignore[method-assign]  # an outage of the store
    watching = asyncio.create_task(rig.watchdog.run())
    await rig.clock.advance(2 * STALL_SECONDS)
    watching.cancel()
    assert not outages
    assert rig.counts["revived"] == 1


async def test_a_finished_job_is_never_revived() -> None:
    rig = Rig()
    await rig.begin(submitted())
    await rig.commits.cancel(JOB)
    rows = len(rig.ledger.rows)
    await rig.clock.advance(10 * STALL_SECONDS)
    await rig.watchdog.revive()
    await rig.watchdog.start()
    assert rig.counts == {}
    assert len(rig.ledger.rows) == rows
