"""What engines, tasks and records that fail cost a job."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from mint_common.errors import (
    AdapterInvalid,
    MintError,
    Overloaded,
    PeerFailed,
    RequestEndsEngines,
    TaskFailed,
    Unavailable,
)
from mint_common.events import JobFinished, WaveCancelled, WaveCompleted
from mint_common.ids import TenantId
from mint_common.records import decode_record
from services.rollout.core.sampling import GroupRequest, SampledGroup
from tests.testing.factories import JOB
from tests.unit.rollout.rig import Rig
from tests.unit.rollout.world import (
    LocalTasks,
    ScriptedEngine,
    published,
    submitted,
)

FULL = Overloaded(what="the cold queue", depth=64, retry_after_seconds=2)
AWAY = Unavailable(what="an engine of base tiny", problem="no loader that answers serves it")


@pytest.mark.parametrize(
    "error", [PeerFailed(what="an engine", status=500), RequestEndsEngines(deaths=2, seconds=600)]
)
async def test_a_job_whose_sampling_cannot_succeed_fails_with_the_reason(error: MintError) -> None:
    rig = Rig(engine=ScriptedEngine(troubles=[error] * 100))
    wave = await rig.begin(submitted(prompts_per_step=1))
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    state, reason = await rig.state_of()
    assert (state, str(error) in reason) == ("failed", True)
    assert len(rig.engine.troubles) >= 97


async def test_a_group_of_twenty_minutes_is_sampled_once_and_its_wave_ends_once() -> None:
    rig = Rig()

    class Slow(ScriptedEngine):
        begun = 0

        async def sample(self, request: GroupRequest) -> SampledGroup:
            Slow.begun += 1
            await rig.clock.sleep(20 * 60.0)
            return await super().sample(request)

    rig = Rig(engine=Slow(), clock=rig.clock)
    wave = await rig.begin(submitted(prompts_per_step=1))
    working = asyncio.create_task(rig.of_waves.on_wave_requested(wave))
    for _ in range(21 * 4):
        await rig.clock.advance(15.0)
        await rig.watchdog.revive()
    assert working.done()
    (done,) = await rig.led_to(wave)
    assert (Slow.begun, isinstance(done, WaveCompleted)) == (1, True)


async def test_an_engine_that_is_full_or_away_is_waited_for() -> None:
    rig = Rig()
    rig.engine.troubles = [FULL, AWAY, FULL, AWAY, AWAY]
    wave = await rig.begin(submitted())
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    (done,) = await rig.led_to(wave)
    assert isinstance(done, WaveCompleted)
    assert rig.clock.now() > 1000.0


async def test_an_adapter_that_the_engine_refuses_fails_the_job_with_the_reason() -> None:
    rig = Rig()
    rig.engine.troubles = [AdapterInvalid(reason="rank", problem="rank 64 is above 16")]
    wave = await rig.begin(submitted())
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    assert [type(event) for event in await rig.led_to(wave)] == [WaveCancelled, JobFinished]
    state, reason = await rig.state_of()
    assert state == "failed"
    assert "rank 64 is above 16" in reason
    assert [each.state.value for each in await rig.jobs.waves_of(JOB)] == ["cancelled"]
    assert rig.counts == {"cancelled": 1}


async def test_an_answer_of_another_revision_is_never_recorded() -> None:
    rig = Rig()
    rig.engine.answers_as = lambda digest: published(9).revision.digest
    wave = await rig.begin(submitted())
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    state, reason = await rig.state_of()
    assert state == "failed"
    assert published(9).revision.digest in reason
    assert "the base" in reason


async def test_torn_prompts_fail_the_job() -> None:
    rig = Rig()
    wave = await rig.begin(submitted())
    await rig.blobs.delete(wave.prompts.uri)
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    state, reason = await rig.state_of()
    assert state == "failed"
    assert wave.prompts.uri in reason


class HangingTasks(LocalTasks):
    """Tasks whose verifier fails on some texts."""

    def __init__(self, *hangs_on: str) -> None:
        super().__init__()
        self._hangs_on = hangs_on

    async def score(
        self, name: str, answers: Sequence[tuple[str, str]], *, tenant_id: TenantId
    ) -> list[float]:
        """Return rewards."""
        if any(text in self._hangs_on for _, text in answers):
            raise TaskFailed(task=name, problem="it took\x00too long")
        return await super().score(name, answers, tenant_id=tenant_id)


async def test_an_answer_that_hangs_a_verifier_costs_one_episode() -> None:
    texts = iter([f"answer {number}" for number in range(8)])
    rig = Rig(engine=ScriptedEngine(answer=lambda prompt, seed: next(texts)))
    rig.tasks = HangingTasks("answer 2")
    rig.of_waves = replace(rig.of_waves, tasks=replace(rig.of_waves.tasks, tasks=rig.tasks))
    wave = await rig.begin(submitted())
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    (done,) = await rig.led_to(wave)
    assert isinstance(done, WaveCompleted)
    record = decode_record(await rig.blobs.get(done.record))
    assert sorted(len(group.samples) for group in record.groups) == [3, 4]
    (row,) = await rig.jobs.waves_of(JOB)
    assert row.counts.grader_errors == {"other_error": 1}


async def test_a_verifier_that_hangs_on_most_answers_fails_the_job_with_a_reason_that_can_be_stored() -> None:
    texts = iter([f"answer {number}" for number in range(8)])
    rig = Rig(engine=ScriptedEngine(answer=lambda prompt, seed: next(texts)))
    rig.tasks = HangingTasks(*[f"answer {number}" for number in range(5)])
    rig.of_waves = replace(rig.of_waves, tasks=replace(rig.of_waves.tasks, tasks=rig.tasks))
    wave = await rig.begin(submitted())
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    state, reason = await rig.state_of()
    assert state == "failed"
    assert "Task 'mode:copy' failed: no reward for at least 5 of 8 samples: other_error 5 times" in reason
    assert "it took\ufffdtoo long" in reason
