"""Jobs whose episodes agents elsewhere run: claims, leases, rewards, and agents that do not come."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from mint_common.errors import InvalidField
from mint_common.events import EnvironmentSpec, WaveCompleted, WaveRequested
from mint_common.ids import JobId, PolicyId, TenantId, WaveId
from mint_common.job_errors import EpisodeOver
from mint_common.job_requests import RewardBody
from mint_common.records import decode_record
from services.rollout.core.agents import AgentEpisode, report_of, wave_of
from services.rollout.core.door.requests import TokensRequest
from services.rollout.core.environment import EpisodeReport
from services.rollout.core.job import wave_id_of
from services.rollout.handlers.agents import MAX_CLAIMED, Agents
from services.rollout.handlers.environments_by_kind import EnvironmentsByKind
from services.rollout.handlers.model_door import ModelDoor
from tests.testing.clock import ManualClock, settle
from tests.testing.factories import JOB, TENANT
from tests.unit.rollout.no_environments import NoEnvironments
from tests.unit.rollout.rig import Rig
from tests.unit.rollout.world import ScriptedEngine, submitted, tokens_of

SESSION = EnvironmentSpec(
    kind="session",
    id="session",
    args={"level": 2},
    split="train",
    max_turns=3,
    episode_seconds=60.0,
    min_group=3,
)
OTHER = TenantId("ten_other")


@dataclass
class World:
    """A rollout service whose jobs' episodes agents run, and one agent of the tests."""

    rig: Rig
    agents: Agents
    ran: Counter[str] = field(default_factory=Counter)

    @property
    def door(self) -> ModelDoor:
        """Return the model door."""
        return self.rig.of_waves.environments.episodes.door

    async def begin(self, **changes: object) -> WaveRequested:
        """Submit a job, and hand its first wave to the handler, which returns at once."""
        spec = {"task": "", "environment": SESSION, "temperature": 0.7}
        wave = await self.rig.begin(submitted(**{**spec, **changes}))
        await self.rig.of_waves.on_wave_requested(wave)
        await settle()
        return wave

    async def call(self, episode: AgentEpisode) -> str:
        """Call the model once; return what it said."""
        found = self.door.episode(episode.token)
        answer = await found.generate(TokensRequest(token_ids=tokens_of(f"{episode.call.place.index}?")))
        sampled = answer["choices"][0]["token_ids"]
        return bytes(token - 3 for token in sampled[:-1]).decode()

    async def play(self, n: int = 256, *, job: JobId = JOB, tenant: TenantId = TENANT) -> list[AgentEpisode]:
        """Claim episodes, call the model in each, and reward it."""
        claimed = [episode for episode, _ in self.agents.claim(job, tenant, n)]
        for episode in claimed:
            self.ran[episode.call.episode_id] += 1
            reward = float(await self.call(episode) == "1")
            self.agents.report(tenant, episode.name, EpisodeReport(reward=reward))
        await settle()
        return claimed

    async def led_to(self, wave: WaveRequested) -> WaveCompleted:
        """Return what became of a wave."""
        for _ in range(10):
            await self.rig.clock.advance(0.5)
        (fact,) = await self.rig.led_to(wave)
        assert isinstance(fact, WaveCompleted), fact
        return fact


def make_world() -> World:
    clock = ManualClock(1000.0)
    agents = Agents(clock)
    engine = ScriptedEngine(answer=lambda _, seed: str(seed % 2))
    environments = EnvironmentsByKind(NoEnvironments(), agents)
    return World(rig=Rig(environments=environments, engine=engine, clock=clock), agents=agents)


@pytest.fixture
async def world() -> "Iterator[World]":
    made = make_world()
    yield made
    for task in list(made.rig.of_waves._apart):
        task.cancel()
    await settle()


async def test_a_job_trains_on_the_calls_of_the_agents_that_claimed_its_episodes(world: World) -> None:
    wave = await world.begin()
    claimed = await world.play()
    places = [each.call.place for each in claimed]
    assert [(p.step, p.group, p.sample) for p in places] == [(1, g, s) for g in range(2) for s in range(4)]
    assert {(p.group, p.index, p.group_size) for p in places} == {(0, 0, 4), (1, 1, 4)}
    seeds = {p.group: {q.seed for q in places if q.group == p.group} for p in places}
    assert [len(each) for each in seeds.values()] == [1, 1]
    assert seeds[0] != seeds[1]
    assert {wave_of(each.name) for each in claimed} == {wave.wave_id}
    fact = await world.led_to(wave)
    record = decode_record(await world.rig.blobs.get(fact.record))
    assert [len(group.samples) for group in record.groups] == [4, 4]
    assert all(s.reward == float(s.text == "1") for g in record.groups for s in g.samples)
    assert {e.outcome for g in record.groups for e in g.episodes} == {"ok"}
    assert not world.agents.waves()


async def test_without_an_agent_a_job_waits_says_so_and_holds_up_no_other(world: World) -> None:
    waves = [await world.begin()]
    for number in range(2, 5):
        names = {"job_id": JobId(f"job_{number}"), "policy_id": PolicyId(f"pol_{number}")}
        waves.append(await world.begin(**names))
    told = {wave.job_id: wave.waits_for for wave in world.agents.waves()}
    assert len(told) == 3  # of four: so many of a tenant's waves are open to agents at a time
    assert told[JOB] == f"waits for an agent to claim episodes: POST /mint/v1/jobs/{JOB}/episodes"
    for _ in range(100):
        await world.rig.clock.advance(60.0)
    assert (await world.rig.state_of())[0] == "running"
    # A task's waves have turns of their own.
    wave = await world.rig.begin(submitted(job_id=JobId("job_t"), policy_id=PolicyId("pol_t")))
    await world.rig.let_pass(world.rig.of_waves.on_wave_requested(wave))
    assert await world.rig.led_to(wave)
    (episode,) = [episode for episode, _ in world.agents.claim(JOB, TENANT, 1)]
    assert {wave.job_id: wave.waits_for for wave in world.agents.waves()}[JOB] == ""
    assert episode.call.place.job_id == JOB


async def test_a_silent_agent_loses_its_episode_and_what_it_does_later_has_no_effect(world: World) -> None:
    wave = await world.begin()
    ((late, deadline),) = world.agents.claim(JOB, TENANT, 1)
    assert deadline == world.rig.clock.now() + 60
    await world.call(late)
    await world.rig.clock.advance(61.0)
    with pytest.raises(EpisodeOver, match="Claim another one"):
        world.agents.claimed(TENANT, late.name)
    with pytest.raises(EpisodeOver):
        world.agents.report(TENANT, late.name, EpisodeReport(reward=1.0))
    again = await world.play()
    assert late.call.episode_id in {each.call.episode_id for each in again}
    assert late.name not in {each.name for each in again}
    await world.led_to(wave)
    assert set(world.ran.values()) == {1}


async def test_an_episode_that_three_agents_lost_has_no_reward(world: World) -> None:
    wave = await world.begin()
    for _ in range(3):
        ((lost, _),) = world.agents.claim(JOB, TENANT, 1)
        await world.rig.clock.advance(61.0)
    await world.play()
    record = decode_record(await world.rig.blobs.get((await world.led_to(wave)).record))
    (episode,) = [e for g in record.groups for e in g.episodes if e.reward is None]
    assert episode.outcome == "infra_error"
    assert "posted no reward within 60 s of its claim" in episode.error
    assert lost.call.place.group == 0


async def test_a_reward_counts_once(world: World) -> None:
    await world.begin()
    ((episode, _),) = world.agents.claim(JOB, TENANT, 1)
    await world.call(episode)
    for _ in range(2):
        world.agents.report(TENANT, episode.name, EpisodeReport(reward=1.0))
    with pytest.raises(InvalidField, match="has its reward already"):
        world.agents.report(TENANT, episode.name, EpisodeReport(reward=0.5))
    await settle()
    world.agents.report(TENANT, episode.name, EpisodeReport(reward=1.0))
    with pytest.raises(EpisodeOver):
        world.agents.claimed(TENANT, episode.name)


async def test_episodes_are_their_tenants_own(world: World) -> None:
    await world.begin()
    assert world.agents.claim(JOB, OTHER, 8) == []
    claimed = world.agents.claim(JOB, TENANT, 1)
    ((episode, _),) = claimed
    with pytest.raises(EpisodeOver):
        world.agents.claimed(OTHER, episode.name)
    with pytest.raises(EpisodeOver):
        world.agents.report(OTHER, episode.name, EpisodeReport(reward=1.0))
    assert world.agents.claimed(TENANT, episode.name) is episode


async def test_a_cancelled_job_ends_its_episodes(world: World) -> None:
    await world.begin()
    ((episode, _),) = world.agents.claim(JOB, TENANT, 1)
    await world.rig.commits.cancel(JOB)
    await world.rig.clock.advance(10.0)
    assert world.agents.claim(JOB, TENANT, 8) == []
    assert not world.agents.has(JOB)
    with pytest.raises(EpisodeOver):
        world.agents.report(TENANT, episode.name, EpisodeReport(reward=1.0))


async def test_a_restart_offers_the_episodes_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    wave = await world.begin()
    world.agents.claim(JOB, TENANT, 3)
    tasks = list(world.rig.of_waves._apart)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not world.agents.waves()
    await world.rig.clock.advance(30.0)
    await world.rig.watchdog.revive()  # which repeats the request to a process that no longer has it
    assert "job revived" in caplog.messages
    await world.rig.of_waves.on_wave_requested(wave)
    await settle()
    assert len(await world.play()) == 8
    await world.led_to(wave)


async def test_a_wave_that_comes_twice_is_offered_once(world: World) -> None:
    wave = await world.begin()
    await world.rig.of_waves.on_wave_requested(wave)
    await settle()
    assert len(world.agents.claim(JOB, TENANT, 100)) == 8


async def test_a_tenants_agents_have_a_bounded_number_of_episodes(world: World) -> None:
    await world.begin(prompts_per_step=80)
    await settle(5000)
    assert len(world.agents.claim(JOB, TENANT, 320)) == MAX_CLAIMED
    assert world.agents.claim(JOB, TENANT, 1) == []
    await world.rig.clock.advance(61.0)
    await settle(5000)
    assert len(world.agents.claim(JOB, TENANT, 320)) == MAX_CLAIMED


async def test_a_claim_waits_for_the_next_episode(world: World) -> None:
    waiting = asyncio.ensure_future(world.agents.until_news(seconds=20.0))
    await settle()
    assert not waiting.done()
    await world.begin()
    assert waiting.done()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (RewardBody(), "reward"),
        (RewardBody(reward=1.0, error="no"), "reward"),
        (RewardBody(reward=float("nan")), "reward"),
        (RewardBody(reward=2e6), "reward"),
        (RewardBody(reward=1.0, scores={"a": float("inf")}), "scores.a"),
    ],
)
def test_what_is_no_reward_is_refused_by_its_field(body: RewardBody, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        report_of(body, turns=1)
    assert refused.value.field == field


def test_a_reward_needs_a_call_of_the_model_and_an_error_does_not() -> None:
    with pytest.raises(InvalidField, match="no answer of the model yet"):
        report_of(RewardBody(reward=1.0), turns=0)
    assert report_of(RewardBody(error="no browser"), turns=0).error == "no browser"
    assert report_of(RewardBody(reward=1), turns=1) == EpisodeReport(reward=1.0)


def test_the_name_of_an_episode_names_its_wave() -> None:
    wave_id = wave_id_of(JOB, 3)
    assert wave_of(f"ep_{wave_id.removeprefix('wave_')}_0a") == wave_id
    assert [wave_of(name) for name in ("", "ep", "ep_a", "ep__a", "x_a_b", "ep_a_")] == [None] * 6
    assert WaveId("wave_a") == wave_of("ep_a_b")
