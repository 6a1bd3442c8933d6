"""Dynamic sampling: which groups are replaced, by how many further prompts, and what is recorded of it."""

from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from mint_common.events import DynamicSampling, WaveCompleted, WaveRequested
from mint_common.ids import WaveId
from mint_common.job_requests import DynamicSamplingBody, JobRequest
from mint_common.json_types import JsonObject
from mint_common.records import (
    Group,
    ReplacedGroup,
    Sample,
    WaveRecord,
    decode_record,
    encode_blob,
    reward_mean,
    rewards_differ,
)
from services.rollout.core.dynamic_groups import FurtherDraw, StepGroups, step_groups
from services.rollout.core.environment import EpisodeCall, EpisodeReport
from services.rollout.core.job_plan import plan_job
from services.rollout.core.job_view import JobProgress, job_view
from services.rollout.core.outcome import idle_stop
from tests.testing.factories import JOB
from tests.unit.rollout.file_jobs import TinyRendering, on_file, store
from tests.unit.rollout.rig import ALGORITHMS, Rig
from tests.unit.rollout.test_environment_waves import (
    COUNTER,
    CountingEnvironment,
    begin,
    by_parity,
    completed,
    rig_of,
)
from tests.unit.rollout.test_graded_jobs import questions
from tests.unit.rollout.world import ScriptedEngine, submitted, tokens_of

REQUEST = JobRequest(policy="p", task="t", prompts_per_step=4, dynamic_sampling=DynamicSamplingBody())
SPEC = plan_job(REQUEST, ALGORITHMS, defaults={}, max_context=512)


def group(*rewards: float) -> Group:
    samples = tuple(Sample(tokens=(1,), logprobs=(-1.0,), reward=one, text="") for one in rewards)
    return Group(prompt_tokens=(1,), samples=samples)


def drawn(step: StepGroups, **dynamic: int) -> FurtherDraw | None:
    return step.next_draw(replace(SPEC, dynamic_sampling=DynamicSampling(**dynamic)))


def test_a_round_draws_as_many_prompts_as_are_to_be_replaced() -> None:
    good, equal, other = group(0.0, 1.0), group(1.0, 1.0), group(0.0, 0.0, 0.0)
    step = step_groups([good, equal, None, other])
    assert drawn(step, max_extra=2) == FurtherDraw(round=1, begin=4, count=2)
    better = group(0.5, 0.25)
    step = step.filled([other, better])
    assert step.kept == (good, better, other)
    assert step.replaced == (ReplacedGroup(reward=0.0, episodes=3), ReplacedGroup(reward=1.0, episodes=2))
    assert drawn(step, max_extra=2) == FurtherDraw(round=2, begin=6, count=1)
    assert drawn(step, max_extra=1) is None
    last = step.filled([None])
    assert (last.kept, last.failed, drawn(last, max_extra=2)) == (step.kept, 2, None)
    assert step_groups([good]).next_draw(SPEC) is None
    assert step_groups([equal]).next_draw(replace(SPEC, dynamic_sampling=None)) is None
    assert step_groups([None]).next_draw(SPEC) is None, "nothing but faults is to be told, not replaced"


rewards_of_a_group = st.none() | st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=3)


@given(
    first=st.lists(rewards_of_a_group, max_size=6),
    further=st.lists(rewards_of_a_group, min_size=18, max_size=18),
    max_extra=st.integers(1, 3),
)
def test_extra_prompts_are_bounded_and_every_group_is_accounted_for(
    first: list[list[float] | None], further: list[list[float] | None], max_extra: int
) -> None:
    def made(rewards: list[list[float] | None]) -> list[Group | None]:
        return [None if one is None else group(*one) for one in rewards]

    step, extra = step_groups(made(first)), 0
    while (draw := drawn(step, max_extra=max_extra)) is not None:
        assert draw.begin == len(first) + extra, "each prompt of a step has a number of its own"
        step = step.filled(made(further[extra : extra + draw.count]))
        extra += draw.count
    assert extra <= max_extra * len(first)
    assert len(step.kept) == sum(one is not None for one in first)
    sampled = [one for one in (*first, *further[:extra]) if one is not None]
    assert len(sampled) == len(step.kept) + len(step.replaced)
    if sampled:
        record = WaveRecord(wave_id=WaveId("w"), revision=None, groups=step.kept, replaced=step.replaced)
        assert reward_mean(record) == pytest.approx(fmean([r for one in sampled for r in one]))
        assert decode_record(encode_blob(record)) == record
    before = sum(len(set(one)) > 1 for one in first if one is not None)
    assert sum(rewards_differ(one) for one in step.kept) >= before


def scripted(rig: Rig, *, equal: int) -> Rig:
    """Let the first ``equal`` requests have right answers only, and later ones differing answers."""
    right = rig.engine.answer
    rig.engine.answer = lambda prompt, seed: (
        right(prompt, seed) if len(rig.engine.requests) <= equal or seed % 2 else "?"
    )
    return rig


async def recorded(rig: Rig, wave: WaveRequested) -> tuple[WaveRecord, WaveCompleted, JsonObject]:
    """Return a wave's record, its event, and its step as a job shows it."""
    fact, record = await completed(rig, wave)
    job = await rig.jobs.job(JOB)
    progress = (await rig.jobs.progress_of([job]))[JOB]
    shown = job_view(JobProgress(job=job, progress=progress, waves=await rig.jobs.waves_of(JOB)))
    steps = shown["steps"]
    assert isinstance(steps, list)
    assert isinstance(steps[0], dict)
    return record, fact, steps[0]


async def test_a_task_s_idle_prompts_are_replaced_by_others() -> None:
    rig = scripted(Rig(), equal=3)
    wave = await rig.begin(submitted(dynamic_sampling=DynamicSampling(max_extra=3)))
    record, fact, step = await recorded(rig, wave)
    requests = rig.engine.requests
    assert len(requests) == 2 + 2 + 1
    assert len({one.request_id for one in requests}) == len({one.seed for one in requests}) == 5
    assert len({one.prompt for one in requests}) > 2
    assert all(rewards_differ(one) for one in record.groups)
    assert [one.prompt_tokens for one in record.groups] == [
        tokens_of(requests[3].prompt),
        tokens_of(requests[4].prompt),
    ]
    assert record.replaced == (ReplacedGroup(reward=1.0, episodes=4),) * 3
    rewards = [sample.reward for one in record.groups for sample in one.samples]
    assert fact.reward_mean == fmean([*rewards, *[1.0] * 12])
    assert step["replaced_groups"] == 3
    again = scripted(Rig(), equal=3)
    await again.begin(submitted(dynamic_sampling=DynamicSampling(max_extra=3)))
    assert (await recorded(again, wave))[0] == record, "a step that is sampled again draws the same"


async def test_a_step_without_a_signal_samples_its_rounds_and_no_more() -> None:
    rig = scripted(Rig(), equal=1000)
    wave = await rig.begin(submitted(dynamic_sampling=DynamicSampling(max_extra=2)))
    record, fact, step = await recorded(rig, wave)
    assert len(rig.engine.requests) == 2 * (1 + 2)
    assert (len(record.groups), len(record.replaced), step["replaced_groups"]) == (2, 4, 4)
    assert fact.reward_mean == 1.0


async def test_rows_of_a_file_are_replaced_by_further_rows() -> None:
    rig = Rig(rendering=TinyRendering(), engine=ScriptedEngine(answer=lambda _, seed: "0"))
    event = on_file(await store(rig, questions(9)), batch=3, dynamic_sampling=DynamicSampling(max_extra=2))
    record, fact, step = await recorded(rig, await rig.begin(event))
    assert len(rig.engine.requests) == 9
    assert len({one.request_id for one in rig.engine.requests}) == 9
    assert (len(record.groups), step["replaced_groups"], step["dropped_rows"]) == (3, 6, 0)
    answers = [*(sample.reward for one in record.groups for sample in one.samples)]
    replaced = [one.reward for one in record.replaced for _ in range(one.episodes)]
    assert fact.reward_mean == fmean([*answers, *replaced])
    assert 0 < fact.reward_mean < 1


async def test_tasks_of_an_environment_are_replaced_by_others() -> None:
    judged: list[str] = []

    def judge(call: EpisodeCall, text: str) -> EpisodeReport:
        judged.append(call.episode_id)
        return by_parity(call, text) if len(judged) > 8 else EpisodeReport(reward=1.0, stop="done")

    rig = rig_of(CountingEnvironment(judge=judge))
    wave = await begin(rig, dynamic_sampling=DynamicSampling(max_extra=3))
    record, _, step = await recorded(rig, wave)
    assert all(rewards_differ(one) for one in record.groups)
    assert step["replaced_groups"] == len(record.replaced) >= 2
    assert step["episodes"] == {"ok": len(judged)}
    assert len(set(judged)) == len(judged) == 4 * (2 + len(record.replaced))


@pytest.mark.parametrize("wish", [0, -1, 11])
def test_the_extra_prompts_of_a_job_are_bounded(wish: int) -> None:
    body = DynamicSamplingBody(max_extra=wish)
    with pytest.raises(InvalidField) as refused:
        plan_job(replace(REQUEST, dynamic_sampling=body), ALGORITHMS, defaults={}, max_context=512)
    assert refused.value.field == "dynamic_sampling.max_extra"


def test_only_what_samples_has_something_to_replace() -> None:
    request = replace(REQUEST, algorithm="sft")
    with pytest.raises(InvalidField) as refused:
        plan_job(request, ALGORITHMS, defaults={}, max_context=512)
    assert refused.value.field == "dynamic_sampling"


def test_a_round_counts_as_a_step_where_a_job_ends_for_want_of_a_signal() -> None:
    plain = replace(SPEC, dynamic_sampling=None, prompts_per_step=16)
    assert idle_stop(plain, steps_done=9, idle_steps=9) is None
    assert idle_stop(plain, steps_done=10, idle_steps=10) is not None
    dynamic = replace(plain, dynamic_sampling=DynamicSampling(max_extra=3))
    assert idle_stop(dynamic, steps_done=2, idle_steps=2) is None
    ended = idle_stop(dynamic, steps_done=3, idle_steps=3)
    assert ended is not None
    assert "in the last 3 steps all answers to each of 192 prompts" in ended.reason
    episodes = replace(dynamic, environment=COUNTER, task="")
    ended = idle_stop(episodes, steps_done=1, idle_steps=1)
    assert ended is not None
    assert ended.outcome == "failed"
