"""Which process has a wave of agents: rows in Postgres that their process renews."""

from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from contract.schemas import empty_schema

from mint_common.events import EnvironmentSpec
from mint_common.ids import JobId, WaveId
from services.rollout.adapters.agent_waves_postgres import LOST_SECONDS, PostgresAgentWaves
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.core.agents import AgentWave
from services.rollout.core.job import open_job
from tests.testing.clock import ManualClock
from tests.unit.rollout.world import submitted

pytestmark = pytest.mark.integration

HERE, THERE = "http://10.0.0.1:8103", "http://10.0.0.2:8103"
FIRST = AgentWave(wave_id=WaveId("wave_1"), job_id=JobId("job_a"), waits_for="waits for an agent")
SECOND = AgentWave(wave_id=WaveId("wave_2"), job_id=JobId("job_a"), waits_for="")


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with empty_schema(database, "rollout") as pool:
        yield pool


async def test_waves_are_found_where_they_are_until_their_process_is_lost(pool: asyncpg.Pool) -> None:
    clock = ManualClock(1_700_000_000.0)
    here, there = (PostgresAgentWaves(pool, clock, url=url) for url in (HERE, THERE))
    await here.put([])
    await here.set_all([FIRST])
    await there.set_all([SECOND])
    assert await there.urls_of_job(FIRST.job_id) == [HERE, THERE]
    assert await there.url_of_wave(FIRST.wave_id) == HERE
    assert await here.url_of_wave(WaveId("wave_3")) is None
    await clock.advance(LOST_SECONDS - 1)
    await there.put([SECOND])
    await clock.advance(2)
    assert await there.urls_of_job(FIRST.job_id) == [THERE]
    assert await there.url_of_wave(FIRST.wave_id) is None
    await there.put([FIRST])  # its process has ended, and the wave comes again in this one
    assert await here.url_of_wave(FIRST.wave_id) == THERE
    await there.set_all([])
    assert await here.urls_of_job(FIRST.job_id) == []


async def test_a_job_waits_for_an_agent_while_none_is_at_work(pool: asyncpg.Pool) -> None:
    environment = EnvironmentSpec(
        kind="session", id="s", args={}, split="train", max_turns=1, episode_seconds=1.0, min_group=1
    )
    event = submitted(job_id=FIRST.job_id, task="", environment=environment)
    job, jobs = open_job(event, now=0.0), PostgresJobs(pool)
    now = await pool.fetchval("SELECT extract(epoch FROM now())::double precision")
    waves = PostgresAgentWaves(pool, ManualClock(now), url=HERE)
    assert await jobs.awaited([job]) == {}
    await waves.set_all([FIRST])
    assert await jobs.awaited([job]) == {FIRST.job_id: "waits for an agent"}
    await waves.set_all([FIRST, SECOND])
    assert await jobs.awaited([job]) == {FIRST.job_id: ""}
    plain = replace(job, spec=replace(job.spec, environment=None))
    assert await jobs.awaited([plain]) == {}
