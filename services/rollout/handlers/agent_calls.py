"""What agents ask of episodes, whichever process of this service has them in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mint_common.errors import MintError, NotFound
from mint_common.ids import TenantId
from mint_common.job_errors import EpisodeOver
from mint_common.job_requests import ClaimBody, RewardBody
from mint_common.json_types import JsonObject
from mint_common.runtime.clock import Clock
from mint_common.runtime.periodic import run_periodically
from services.rollout.adapters.agent_waves_postgres import RENEW_SECONDS, PostgresAgentWaves
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.adapters.siblings import Siblings
from services.rollout.core.agents import claim_view, report_of, wave_of
from services.rollout.core.job import Job
from services.rollout.core.job_control import is_over
from services.rollout.handlers.agents import Agents
from services.rollout.handlers.model_door import ModelDoor
from services.rollout.handlers.open_episode import OpenEpisode

LOOK_SECONDS = 2.0
"""Interval in which a waiting claim looks at the job and at other processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCalls:
    """Claims, rewards and model calls of agents."""

    agents: Agents
    door: ModelDoor
    jobs: PostgresJobs
    waves: PostgresAgentWaves
    siblings: Siblings
    clock: Clock

    async def run(self) -> None:
        """Tell the other processes which waves are here, until cancelled."""
        await run_periodically(self._publish, name="agents", every_seconds=RENEW_SECONDS, clock=self.clock)

    async def _publish(self) -> None:
        await self.waves.set_all(self.agents.waves())

    async def claim(self, job: Job, body: ClaimBody) -> tuple[Job, list[JsonObject]]:
        """Return the job as it is, and episodes of it: some as soon as any are free, none after a time."""
        deadline = self.clock.monotonic() + body.wait_seconds
        while True:
            found: list[JsonObject] = []
            if not is_over(job):  # the process with its episodes may not know yet
                found = await self.claim_here(job, body.n) or await self._claim_elsewhere(job, body.n)
            left = deadline - self.clock.monotonic()
            if found or is_over(job) or left <= 0:
                return job, found
            await self.agents.until_news(seconds=min(left, LOOK_SECONDS))
            job = await self.jobs.job(job.job_id)

    async def claim_here(self, job: Job, n: int) -> list[JsonObject]:
        """Return episodes that this process has, if any are free; the other processes know of their waves."""
        if not self.agents.has(job.job_id):
            return []
        await self.waves.put([wave for wave in self.agents.waves() if wave.job_id == job.job_id])
        taken = self.agents.claim(job.job_id, job.tenant_id, n)
        return [claim_view(episode, deadline=deadline) for episode, deadline in taken]

    async def _claim_elsewhere(self, job: Job, n: int) -> list[JsonObject]:
        for url in await self.waves.urls_of_job(job.job_id):
            if url != self.waves.url:
                found = await self._ask(url, job, n)
                if found:
                    return found
        return []

    async def _ask(self, url: str, job: Job, n: int) -> list[JsonObject]:
        path = f"/internal/tenants/{job.tenant_id}/jobs/{job.job_id}/episodes/here"
        try:
            answer: Sequence[JsonObject] = await self.siblings.at(url).post(path, {"n": n})
        except MintError:  # it may have ended: its waves come again elsewhere
            return []
        return list(answer)

    async def place_of(self, name: str) -> str | None:
        """Return the address of the process with an episode, None for this one. Raises EpisodeOver."""
        wave_id = wave_of(name)
        if wave_id is None:
            raise EpisodeOver(name=name[:100])
        if self.agents.knows(name):
            return None
        url = await self.waves.url_of_wave(wave_id)
        return None if url == self.waves.url else url

    def reward(self, tenant_id: TenantId, name: str, body: RewardBody) -> JsonObject:
        """Take an episode's reward. Raises EpisodeOver, InvalidField."""
        known = self.agents.reported(tenant_id, name)
        turns = 1 if known is not None else self.episode(tenant_id, name).turns
        report = report_of(body, turns=turns)
        self.agents.report(tenant_id, name, report)
        told: Mapping[str, object] = {"episode": name, "reward": report.reward, "error": report.error}
        return dict(told)

    def episode(self, tenant_id: TenantId, name: str) -> OpenEpisode:
        """Return the open episode that an agent has claimed. Raises EpisodeOver."""
        try:
            return self.door.episode(self.agents.claimed(tenant_id, name).token)
        except NotFound as error:
            raise EpisodeOver(name=name[:100]) from error
