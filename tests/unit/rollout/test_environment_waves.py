"""Waves of jobs on environments: records from recorded calls, failures that are never rewards."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from mint_common.errors import InvalidField, NonFiniteOutput, NotFound, Overloaded
from mint_common.events import EnvironmentSpec, WaveCancelled, WaveCompleted, WaveRequested
from mint_common.ids import TenantId
from mint_common.records import WaveRecord, decode_prompts, decode_record
from services.rollout.core.door.requests import TokensRequest
from services.rollout.core.environment import (
    EnvironmentFault,
    EnvironmentInfo,
    EnvironmentTask,
    EpisodeCall,
    EpisodeReport,
)
from services.rollout.core.sampling import GroupRequest, SampledGroup
from services.rollout.handlers.model_door import ModelDoor
from services.rollout.handlers.open_episode import EpisodeTerms
from tests.testing.factories import BASE, TENANT
from tests.unit.rollout.rig import Rig
from tests.unit.rollout.world import ScriptedEngine, published, submitted, tokens_of

COUNTER = EnvironmentSpec(
    kind="skyrl",
    id="counter",
    args={},
    split="train",
    max_turns=3,
    episode_seconds=30.0,
    min_group=3,
)
Judge = Callable[[EpisodeCall, str], EpisodeReport]


def by_parity(_: EpisodeCall, text: str) -> EpisodeReport:
    return EpisodeReport(reward=float(text == "1"), scores={"even": float(text == "0")}, stop="done")


@dataclass
class CountingEnvironment:
    """Asks the model ``turns`` times, each time with all that was said before, and judges the last answer."""

    judge: Judge = by_parity
    turns: int = 2
    by_group: bool = False
    ran: Counter[str] = field(default_factory=Counter)
    firsts: set[str] = field(default_factory=set)
    seeds: set[tuple[str, int]] = field(default_factory=set)
    door: ModelDoor | None = None

    async def describe(
        self, environment: EnvironmentSpec, split: str, *, tenant_id: TenantId
    ) -> EnvironmentInfo:
        """Describe."""
        return EnvironmentInfo(description="counts", tasks=None, by_group=self.by_group)

    async def draw(
        self, environment: EnvironmentSpec, split: str, n: int, seed: int, *, tenant_id: TenantId
    ) -> list[EnvironmentTask]:
        """Return numbered tasks."""
        return [EnvironmentTask(key=f"{split}-{seed % 1000}-{at}", entry="{}") for at in range(n)]

    async def run(
        self,
        environment: EnvironmentSpec,
        task: EnvironmentTask,
        episodes: Sequence[EpisodeCall],
        *,
        tenant_id: TenantId,
    ) -> list[EpisodeReport]:
        """Run episodes."""
        self.firsts.add(episodes[0].episode_id)
        return [await self._run(task, call) for call in episodes]

    async def _run(self, task: EnvironmentTask, call: EpisodeCall) -> EpisodeReport:
        self.ran[call.episode_id] += 1
        self.seeds.add((call.episode_id, call.seed))
        assert self.door is not None
        episode = self.door.episode(call.path.removeprefix("/e/"))
        prompt, text = tokens_of(task.key), ""
        for _ in range(self.turns):
            answer = await episode.generate(TokensRequest(token_ids=prompt))
            sampled = tuple(answer["choices"][0]["token_ids"])
            text = bytes(token - 3 for token in sampled[:-1]).decode()
            prompt = (*prompt, *sampled, *tokens_of("?"))
        return self.judge(call, text)


def rig_of(environment: CountingEnvironment, **engine: object) -> Rig:
    rig = Rig(environments=environment, engine=ScriptedEngine(answer=lambda _, seed: str(seed % 2), **engine))
    environment.door = rig.of_waves.environments.episodes.door
    return rig


async def begin(rig: Rig, **changes: object) -> WaveRequested:
    spec = {"task": "", "environment": COUNTER, "temperature": 0.7, **changes}
    return await rig.begin(submitted(**spec))


async def completed(rig: Rig, wave: WaveRequested) -> tuple[WaveCompleted, WaveRecord]:
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    (fact,) = await rig.led_to(wave)
    assert isinstance(fact, WaveCompleted), fact
    return fact, decode_record(await rig.blobs.get(fact.record))


async def cancelled(rig: Rig, wave: WaveRequested) -> str:
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    (fact,) = [each for each in await rig.led_to(wave) if isinstance(each, WaveCancelled)]
    return fact.reason


async def test_a_record_has_the_rewards_of_the_environment_and_the_tokens_of_the_calls() -> None:
    environment = CountingEnvironment()
    rig = rig_of(environment)
    wave = await begin(rig)
    tasks = decode_prompts(await rig.blobs.get(wave.prompts))
    fact, record = await completed(rig, wave)
    assert record.logprobs_temperature == 0.7
    assert all((r.temperature, r.logprobs_mode, r.n) == (0.7, "processed", 1) for r in rig.engine.requests)
    assert len(record.groups) == len(tasks) == 2
    for group, task in zip(record.groups, tasks, strict=True):
        start = tokens_of(task.text)
        assert group.prompt_tokens[: len(start)] == start
        assert len(group.samples) == len(group.episodes) == 4
        for sample, episode in zip(group.samples, group.episodes, strict=True):
            whole = group.prompt_tokens + sample.tokens
            prompts = [request.prompt_tokens for request in rig.engine.requests]
            last = max((each for each in prompts if whole[: len(each)] == each), key=len)
            assert whole[len(last) :] in {(*tokens_of(text), 2) for text in "01"}
            assert sample.reward == episode.reward == float(sample.text.splitlines()[-1] == "1")
            assert (episode.outcome, episode.turns, episode.stop) == ("ok", 2, "done")
            assert episode.scores == {"even": 1.0 - sample.reward}
    rewards = [sample.reward for group in record.groups for sample in group.samples]
    assert fact.reward_mean == sum(rewards) / 8
    row = await rig.jobs.wave(wave.wave_id)
    assert row is not None
    assert row.counts.episodes == {"ok": 8}
    assert row.counts.trained_tokens == 8 * 2 * 2


async def test_a_wave_made_again_has_the_same_record() -> None:
    records = []
    for _ in range(2):
        rig = rig_of(CountingEnvironment())
        _, record = await completed(rig, await begin(rig))
        records.append([(g.prompt_tokens, g.samples) for g in record.groups])
    assert records[0] == records[1]


@pytest.mark.parametrize("by_group", [False, True])
async def test_an_infrastructure_fault_is_repeated_and_never_a_reward(*, by_group: bool) -> None:
    def judge(call: EpisodeCall, text: str) -> EpisodeReport:
        if call.episode_id in environment.firsts and environment.ran[call.episode_id] < 3:
            raise EnvironmentFault("the worker was killed", whose="infrastructure")
        return by_parity(call, text)

    environment = CountingEnvironment(judge, by_group=by_group)
    rig = rig_of(environment)
    _, record = await completed(rig, await begin(rig))
    assert {e.outcome for g in record.groups for e in g.episodes} == {"ok"}
    assert max(environment.ran.values()) == 3
    assert len(environment.seeds) == len(environment.ran) == 8


async def test_an_engine_that_fails_makes_the_report_void() -> None:
    environment = CountingEnvironment(turns=1)
    rig = rig_of(environment, troubles=[Overloaded(what="x", depth=1, retry_after_seconds=1)] * 2)
    await completed(rig, await begin(rig))
    assert set(environment.ran.values()) == {1}  # one that was full was asked again, within the call

    class Hiding(CountingEnvironment):
        async def _run(self, task: EnvironmentTask, call: EpisodeCall) -> EpisodeReport:
            try:
                return await super()._run(task, call)
            except NonFiniteOutput:  # as an environment may take any answer for a wrong one
                return EpisodeReport(reward=0.0)

    hiding = Hiding(turns=1)
    rig = rig_of(hiding, troubles=[NonFiniteOutput(digest="sha256:0")] * 2)
    _, record = await completed(rig, await begin(rig))
    assert max(hiding.ran.values()) > 1
    assert Counter(s.reward for g in record.groups for s in g.samples)[1.0] > 0
    assert all(s.reward == float(s.text == "1") for g in record.groups for s in g.samples)


async def test_an_error_and_a_reward_that_is_no_number_have_no_sample_and_are_counted() -> None:
    def judge(call: EpisodeCall, text: str) -> EpisodeReport:
        at = list(environment.ran).index(call.episode_id)
        if at == 0:
            return EpisodeReport(reward=float("nan"))
        if at == 7:
            raise EnvironmentFault("it raised\x00", whose="environment")
        return by_parity(call, text)

    environment = CountingEnvironment(judge)
    rig = rig_of(environment)
    wave = await begin(rig)
    _, record = await completed(rig, wave)
    lost = [e for g in record.groups for e in g.episodes if e.reward is None]
    assert [e.outcome for e in lost] == ["env_error"] * 2
    row = await rig.jobs.wave(wave.wave_id)
    assert row is not None
    assert row.counts.episodes == {"ok": 6, "env_error": 2}
    assert sum(len(g.samples) for g in record.groups) == 6 - 2 * row.counts.dropped_groups


async def test_too_many_failures_fail_the_job_with_an_example() -> None:
    environment = CountingEnvironment(lambda *_: EpisodeReport(reward=None, error="division by zero"))
    rig = rig_of(environment)
    assert "division by zero" in await cancelled(rig, await begin(rig))
    state, reason = await rig.state_of()
    assert state == "failed"
    assert "counter" in reason


async def test_a_group_with_too_few_rewards_is_dropped_and_counted() -> None:
    def judge(call: EpisodeCall, text: str) -> EpisodeReport:
        first = list(environment.ran)[:2]
        return EpisodeReport(reward=None, error="no") if call.episode_id in first else by_parity(call, text)

    environment = CountingEnvironment(judge, by_group=True)
    rig = rig_of(environment)
    wave = await begin(rig)
    _, record = await completed(rig, wave)
    row = await rig.jobs.wave(wave.wave_id)
    assert row is not None
    assert (len(record.groups), row.counts.dropped_groups) in {(1, 1), (2, 0)}
    assert all(len({s.episode for s in g.samples}) >= 3 for g in record.groups)


async def test_a_call_beyond_the_limit_of_turns_is_refused_and_the_episode_truncated() -> None:
    class Greedy(CountingEnvironment):
        async def _run(self, task: EnvironmentTask, call: EpisodeCall) -> EpisodeReport:
            with pytest.raises(InvalidField, match="has had its 3 calls"):
                await super()._run(task, call)
            return EpisodeReport(reward=float(call.seed % 2))

    rig = rig_of(Greedy(turns=4))
    _, record = await completed(rig, await begin(rig))
    assert {(e.outcome, e.turns) for g in record.groups for e in g.episodes} == {("truncated", 3)}


@pytest.mark.parametrize(("trained", "ends"), [((0, 0, 0), "failed"), ((9, 0, 0, 0), "succeeded")])
async def test_a_job_without_a_signal_in_three_steps_ends(trained: Sequence[int], ends: str) -> None:
    rig = rig_of(CountingEnvironment(lambda *_: EpisodeReport(reward=1.0)))
    wave = await begin(rig, steps=8)
    for step, tokens in enumerate(trained, start=1):
        await completed(rig, wave)
        assert (await rig.state_of())[0] == "running"
        fact = replace(published(step), metrics={"trained_tokens": float(tokens)})
        await rig.of_jobs.on_revision_published(fact)
        wave = next((each for each in await rig.led_to(fact) if isinstance(each, WaveRequested)), wave)
    state, reason = await rig.state_of()
    assert state == ends
    assert reason.startswith("no learning signal: in the last 3 steps all answers")


class SilentEngine(ScriptedEngine):
    """An engine that never answers."""

    async def sample(self, request: GroupRequest) -> SampledGroup:
        """Wait."""
        await asyncio.Event().wait()
        raise AssertionError(request)


@pytest.mark.parametrize(("seconds", "is_ours"), [(1.0, False), (16.0, True)])
async def test_a_call_that_waits_for_most_of_an_episode_is_no_fault_of_the_environment(
    *, seconds: float, is_ours: bool
) -> None:
    rig = Rig(engine=SilentEngine())
    terms = EpisodeTerms(
        episode_id="ep",
        tenant_id=TENANT,
        base=BASE,
        revision=None,
        model="policy",
        temperature=1.0,
        max_new_tokens=4,
        max_turns=2,
        seconds=30.0,
        seed=1,
    )
    with rig.of_waves.environments.episodes.door.opened(terms) as (_, episode):
        asking = asyncio.create_task(episode.generate(TokensRequest(token_ids=(5,))))
        await rig.clock.advance(seconds)
        episode.note_unanswered()
        assert (episode.fault is not None) == is_ours
    with pytest.raises(NotFound):
        await asking
