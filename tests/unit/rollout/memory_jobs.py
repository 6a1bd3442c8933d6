"""Jobs and waves in memory, for tests that turn the clock: Postgres would need real time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mint_common.errors import NotFound
from mint_common.events import EvaluationMetric
from mint_common.ids import Digest, JobId, PolicyId, TenantId, WaveId
from services.rollout.core.job import Job, JobState, is_scored_by_runs
from services.rollout.core.job_control import has_begun, is_over
from services.rollout.core.progress import BestMeasured, Progress, best_revision
from services.rollout.core.quotas import JobUsage
from services.rollout.core.validation import best_score, scores_of
from services.rollout.core.wave import Wave, WaveState
from tests.testing.ledger_memory import MemoryConnection


class MemoryJobs:
    """The job store as dictionaries. Nothing in it waits, so a transaction over it is never interleaved."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, Job] = {}
        self._waves: dict[WaveId, Wave] = {}

    async def lock(self, connection: MemoryConnection, job_id: JobId) -> Job:  # see the class
        """Return a job."""
        return await self.job(job_id)

    async def save(self, connection: MemoryConnection, job: Job, waves: Sequence[Wave]) -> None:
        """Keep a job and waves from the commit on."""
        connection.at_commit(lambda: self._jobs.update({job.job_id: job}))
        connection.at_commit(lambda: self._waves.update({wave.wave_id: wave for wave in waves}))

    async def job(self, job_id: JobId) -> Job:
        """Return a job."""
        if job_id not in self._jobs:
            raise NotFound(kind="job", name=job_id)
        return self._jobs[job_id]

    async def jobs_of(
        self,
        tenant_id: TenantId,
        *,
        limit: int,
        state: str | None = None,
        policy: str | None = None,
        after: Job | None = None,
    ) -> list[Job]:
        """Return a tenant's newest jobs, newest first, of all states and policies."""
        assert (state, policy, after) == (None, None, None), "tests/contract/test_jobs.py has these"
        own = [_without_grader(job) for job in self._jobs.values() if job.tenant_id == tenant_id]
        return sorted(own, key=lambda job: (-job.created_at, job.job_id))[:limit]

    async def waves_of(self, job_id: JobId, *, within: MemoryConnection | None = None) -> list[Wave]:
        """Return a job's waves by step."""
        own = [wave for wave in self._waves.values() if wave.job_id == job_id]
        return sorted(own, key=lambda wave: wave.step)

    async def waves_in(self, job_id: JobId, steps: range) -> list[Wave]:
        """Return a job's waves of a range of steps, by step."""
        return [wave for wave in await self.waves_of(job_id) if wave.step in steps]

    async def progress_of(self, jobs: Sequence[Job]) -> Mapping[JobId, Progress]:
        """Return how far each of these jobs is."""
        return {job.job_id: progress_of(job, await self.waves_of(job.job_id)) for job in jobs}

    async def awaited(self, jobs: Sequence[Job]) -> Mapping[JobId, str]:
        """Return nothing: no process of agents is known here."""
        return {}

    async def unscored_waves(self, job_id: JobId, steps: Sequence[int]) -> list[Wave]:
        """Return a job's waves of these steps without a score, by step."""
        found = [wave for wave in await self.waves_of(job_id) if wave.step in steps]
        return [wave for wave in found if wave.revision is not None and wave.scored_at is None]

    async def wave(self, wave_id: WaveId, *, within: MemoryConnection | None = None) -> Wave | None:
        """Return one wave."""
        return self._waves.get(wave_id)

    async def teachers(self, *, after: str, limit: int) -> list[Digest]:
        """Return the teachers of jobs that have not ended."""
        of_jobs = [job.spec.teacher for job in self._jobs.values() if not is_over(job)]
        held = {each.revision.digest for each in of_jobs if each is not None and each.revision is not None}
        return [digest for digest in sorted(held) if digest > after][:limit]

    async def next_of(self, policy_id: PolicyId) -> Job | None:
        """Return the first waiting job of a policy."""
        own = [job for job in self._jobs.values() if job.policy_id == policy_id]
        if any(job.state is JobState.RUNNING for job in own):
            return None
        if any(job.state is JobState.PAUSED and has_begun(job) for job in own):
            return None
        waiting = [job for job in own if job.state is JobState.SUBMITTED]
        return min(waiting, key=lambda job: (job.created_at, job.job_id), default=None)

    async def lock_next(self, connection: MemoryConnection, policy_id: PolicyId) -> Job | None:
        """Return the same."""
        return await self.next_of(policy_id)

    async def overdue(self, *, before: float) -> list[PolicyId]:
        """Return policies whose job waits for nothing."""
        open_states = (JobState.SUBMITTED, JobState.RUNNING)
        policies = {job.policy_id for job in self._jobs.values() if job.state in open_states}
        firsts = [await self.next_of(policy_id) for policy_id in sorted(policies)]
        return [job.policy_id for job in firsts if job is not None and job.created_at < before]

    async def usage(self, tenant_id: TenantId, *, since: float) -> JobUsage:
        """Return what a tenant's jobs take."""
        own = {job.job_id: job for job in self._jobs.values() if job.tenant_id == tenant_id}
        waves = [wave for wave in self._waves.values() if wave.job_id in own]
        return JobUsage(
            open_jobs=sum(not is_over(job) for job in own.values()),
            trainer_seconds=sum(
                wave.metrics.get("seconds", 0.0) for wave in waves if (wave.published_at or 0.0) >= since
            ),
        )

    def _is_sampled(self, job: Job) -> bool:
        wave = self._waves.get(job.wave_id)
        return wave is None or wave.state is not WaveState.REQUESTED

    async def scored_by_runs(self) -> list[Job]:
        """Return jobs that evaluation runs measure."""
        return [job for job in self._jobs.values() if is_scored_by_runs(job) and not is_over(job)]

    async def touch(self, job_id: JobId, *, now: float) -> bool:
        """Record a sign of life."""
        job = self._jobs.get(job_id)
        if job is None or job.state is not JobState.RUNNING:
            return False
        self._jobs[job_id] = replace(job, progress_at=max(job.progress_at, now))
        return True

    async def claim_stalled(self, *, before: float, waiting_since: float | None, now: float) -> list[Job]:
        """Return stalled jobs, each once."""
        running = [job for job in self._jobs.values() if job.state is JobState.RUNNING]
        if waiting_since is not None:
            running = [job for job in running if job.progress_at < waiting_since or self._is_sampled(job)]
        stalled = [replace(job, progress_at=now) for job in running if job.progress_at < before]
        self._jobs |= {job.job_id: job for job in stalled}
        return stalled


def progress_of(job: Job, waves: Sequence[Wave]) -> Progress:
    """Return the progress of a job with these waves, which are in the order of steps."""
    rewards = [wave.reward_mean for wave in waves if wave.reward_mean is not None]
    sampled = best_revision(waves) if job.spec.is_sampled else None
    return Progress(
        step=sum(wave.revision is not None for wave in waves),
        reward=rewards[-1] if rewards else None,
        best=sampled if job.plan is None else _best_measured(job.plan.metric, waves),
        started_at=waves[0].requested_at if waves else None,
        trained_tokens=sum(wave.counts.trained_tokens for wave in waves if wave.revision is not None),
    )


def _best_measured(metric: EvaluationMetric, waves: Sequence[Wave]) -> BestMeasured | None:
    best = best_score(metric, scores_of(metric, waves))
    if best is None:
        return None
    revision = best.revision
    return BestMeasured(
        digest=revision.digest, number=revision.number, step=best.step, metric=metric, value=best.value
    )


def _without_grader(job: Job) -> Job:
    data = job.spec.data
    return job if data is None else replace(job, spec=replace(job.spec, data=replace(data, grader=None)))
