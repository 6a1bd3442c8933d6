"""Jobs and waves in the Postgres schema `rollout`."""

from collections.abc import Mapping, Sequence

import asyncpg
import msgspec

from mint_common.claims import Claim
from mint_common.ids import Digest, JobId, PolicyId, TenantId, WaveId
from mint_common.runtime.postgres import columns_of, found_record, from_row, insert_of, values_of
from mint_common.runtime.postgres_errors import PostgresConnection
from services.rollout.adapters.agent_waves_postgres import LOST_SECONDS
from services.rollout.core.job import Job
from services.rollout.core.progress import BestMeasured, BestRevision, Progress
from services.rollout.core.quotas import JobUsage
from services.rollout.core.validation import SIGNS
from services.rollout.core.wave import Wave

SELECT_JOB = f"SELECT {columns_of(Job)} FROM jobs"  # noqa: S608  # names of our own fields
_WAVE = f"SELECT {columns_of(Wave)} FROM waves"  # noqa: S608  # as above
_LOCK_POLICY = "SELECT pg_advisory_xact_lock(hashtextextended('mint_rollout_policy_' || $1, 0))"
_STARTABLE = """state = 'submitted' AND NOT EXISTS (
        SELECT FROM jobs holder WHERE holder.policy_id = jobs.policy_id
            AND (holder.state = 'running' OR (holder.state = 'paused' AND holder.steps_done > 0))
    )
"""
_NEXT = f"{SELECT_JOB} WHERE policy_id = $1 AND {_STARTABLE} ORDER BY created_at, job_id LIMIT 1"
_OVERDUE = f"SELECT DISTINCT policy_id FROM jobs WHERE created_at < $1 AND {_STARTABLE}"  # noqa: S608  # as above
_CLAIM_STALLED = f"""
    UPDATE jobs SET progress_at = $2 WHERE state = 'running' AND progress_at < $1 AND (
        $3::double precision IS NULL OR progress_at < $3 OR NOT EXISTS (
            SELECT FROM waves
            WHERE waves.job_id = jobs.job_id AND step = steps_done + 1 AND waves.state = 'requested'
        )
    )
    RETURNING {columns_of(Job)}
"""  # noqa: S608  # as above
_AWAITED = """
    SELECT DISTINCT ON (job_id) job_id, waits_for FROM agent_waves
    WHERE job_id = ANY ($1) AND seen_at > extract(epoch FROM now()) - $2 ORDER BY job_id, waits_for
"""
# Under the job's lock: other changes write the whole row of a wave.
_COMPARED = """
    WITH locked AS (SELECT FROM jobs WHERE job_id = $1 FOR UPDATE)
    UPDATE waves SET logprobs = $3 FROM locked WHERE wave_id = $2 AND waves.job_id = $1
"""
_UNSCORED = f"""
    {_WAVE} WHERE job_id = $1 AND step = ANY ($2)
    AND jsonb_typeof(revision) = 'object' AND scored_at IS NULL ORDER BY step
"""
_SCORED_BY_RUNS = f"""
    {SELECT_JOB} WHERE state IN ('running', 'paused') AND (spec ->> 'group_size')::int > 1
    AND (
        jsonb_typeof(spec -> 'data' -> 'evaluation') = 'object'
        OR jsonb_typeof(spec -> 'environment' -> 'evaluation') = 'object'
    )
"""
# A job's progress is no older than its steps.
_USAGE = """
    SELECT (
        SELECT count(*) FROM jobs WHERE tenant_id = $1 AND state IN ('submitted', 'running', 'paused')
    ) AS open_jobs, (
        SELECT coalesce(sum((waves.metrics ->> 'seconds')::double precision), 0)
        FROM jobs JOIN waves USING (job_id)
        WHERE tenant_id = $1 AND progress_at >= $2 AND published_at >= $2
            AND jsonb_typeof(waves.metrics -> 'seconds') = 'number'
    ) AS trainer_seconds
"""
_LISTED = ", ".join(name for name in Job.__slots__ if name != "spec")
LISTED_JOBS = f"SELECT {_LISTED}, jsonb_set(spec, '{{data,grader}}', 'null', false) AS spec FROM jobs"  # noqa: S608  # names of our own fields
"""Jobs without their graders, which may be large."""
_JOBS = f"""
    {LISTED_JOBS} WHERE tenant_id = $1
        AND ($3::text IS NULL OR state = $3)
        AND ($4::text IS NULL OR $4 IN (policy, policy_id))
        AND ($5::float8 IS NULL OR created_at < $5 OR (created_at = $5 AND job_id > $6))
    ORDER BY created_at DESC, job_id LIMIT $2
"""
_PROGRESS = """
    SELECT job_id, count(revision) AS step, min(requested_at) AS started_at,
        (array_agg(reward_mean ORDER BY step DESC) FILTER (WHERE reward_mean IS NOT NULL))[1] AS reward,
        coalesce(sum((counts ->> 'trained_tokens')::bigint) FILTER (WHERE revision IS NOT NULL), 0)::bigint
            AS trained_tokens
    FROM waves WHERE job_id = ANY ($1) GROUP BY job_id
"""
_BEST_SAMPLED = """
    SELECT DISTINCT ON (job_id) job_id, digest, number, reward, step FROM (
        SELECT job_id, sampled AS digest, max(sampled_number) AS number, avg(reward_mean) AS reward,
            max(step) AS step
        FROM waves WHERE job_id = ANY ($1) AND sampled_number IS NOT NULL AND reward_mean IS NOT NULL
        GROUP BY job_id, sampled
    ) AS measured ORDER BY job_id, reward DESC, step DESC
"""
_BEST_MEASURED = """
    SELECT DISTINCT ON (job_id) job_id, revision ->> 'digest' AS digest, step, metric,
        (revision ->> 'number')::integer AS number, (metrics ->> metric)::double precision AS value
    FROM waves JOIN unnest($1::text[], $2::text[], $3::double precision[]) AS plan (job_id, metric, sign)
        USING (job_id)
    WHERE revision IS NOT NULL AND jsonb_typeof(metrics -> metric) = 'number'
    ORDER BY job_id, sign * (metrics ->> metric)::double precision DESC, step
"""


_TEACHERS = """
    SELECT digest FROM (
        SELECT DISTINCT spec #>> '{teacher,revision,digest}' AS digest FROM jobs
        WHERE state IN ('submitted', 'running', 'paused')
    ) AS teachers WHERE digest > $1 ORDER BY digest LIMIT $2
"""


def _put_of(table: str, key: str, kind: type[Job | Wave]) -> str:
    """Return the statement that inserts or replaces a row."""
    updates = ", ".join(f"{name} = excluded.{name}" for name in kind.__slots__ if name != key)
    return f"{insert_of(table, kind)} ON CONFLICT ({key}) DO UPDATE SET {updates}"


_PUT_JOB = _put_of("jobs", "job_id", Job)
_PUT_WAVE = _put_of("waves", "wave_id", Wave)


class PostgresJobs:
    """Jobs and their waves. ``connection`` is that of an open ledger transaction."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def lock(self, connection: PostgresConnection, job_id: JobId) -> Job:
        """Return a job, locked until the transaction ends. Raises NotFound."""
        row = await connection.fetchrow(f"{SELECT_JOB} WHERE job_id = $1 FOR UPDATE", job_id)
        return found_record(row, Job, kind="job", name=job_id)

    async def save(self, connection: PostgresConnection, job: Job, waves: Sequence[Wave]) -> None:
        """Insert or replace a job and some of its waves."""
        await connection.execute(_PUT_JOB, *values_of(job))
        for wave in waves:
            await connection.execute(_PUT_WAVE, *values_of(wave))

    async def job(self, job_id: JobId) -> Job:
        """Return a job as last committed. Raises NotFound."""
        row = await self._pool.fetchrow(f"{SELECT_JOB} WHERE job_id = $1", job_id)
        return found_record(row, Job, kind="job", name=job_id)

    async def jobs_of(
        self,
        tenant_id: TenantId,
        *,
        limit: int,
        state: str | None = None,
        policy: str | None = None,
        after: Job | None = None,
    ) -> list[Job]:
        """Return a tenant's newest jobs, newest first, without their graders, which may be large.

        Those in a ``state``, of a ``policy`` (name or id), and older than the job ``after``, where given.
        """
        place = (None, None) if after is None else (after.created_at, after.job_id)
        rows = await self._pool.fetch(_JOBS, tenant_id, limit, state, policy, *place)
        return [from_row(row, Job) for row in rows]

    async def waves_of(self, job_id: JobId, *, within: "PostgresConnection | None" = None) -> list[Wave]:
        """Return a job's waves by step, read ``within`` an open transaction where one is given."""
        asked = within or self._pool
        rows = await asked.fetch(f"{_WAVE} WHERE job_id = $1 ORDER BY step", job_id)
        return [from_row(row, Wave) for row in rows]

    async def waves_in(self, job_id: JobId, steps: range) -> list[Wave]:
        """Return a job's waves of a range of steps, by step."""
        between = f"{_WAVE} WHERE job_id = $1 AND step >= $2 AND step < $3 ORDER BY step"
        rows = await self._pool.fetch(between, job_id, steps.start, steps.stop)
        return [from_row(row, Wave) for row in rows]

    async def progress_of(self, jobs: Sequence[Job]) -> Mapping[JobId, Progress]:
        """Return how far each of these jobs is: sums and the best of its waves, which stay in Postgres."""
        plans = {job.job_id: job.plan.metric for job in jobs if job.plan}
        signs = [SIGNS[metric] for metric in plans.values()]
        sampled = [job.job_id for job in jobs if not job.plan and job.spec.is_sampled]
        best: dict[JobId, BestRevision | BestMeasured] = {}
        for row in await self._pool.fetch(_BEST_SAMPLED, sampled):
            best[row["job_id"]] = from_row(row, BestRevision)
        for row in await self._pool.fetch(_BEST_MEASURED, [*plans], [*plans.values()], signs):
            best[row["job_id"]] = from_row(row, BestMeasured)
        found = {job.job_id: Progress() for job in jobs}
        for row in await self._pool.fetch(_PROGRESS, list(found)):
            sums = dict(row)
            job_id = sums.pop("job_id")
            found[job_id] = Progress(**sums, best=best.get(job_id))
        return found

    async def awaited(self, jobs: Sequence[Job]) -> Mapping[JobId, str]:
        """Return what jobs wait for whose episodes agents run: nothing while an agent is at work."""
        names = [job.job_id for job in jobs if job.is_for_agents]
        found = await self._pool.fetch(_AWAITED, names, LOST_SECONDS) if names else ()
        return {JobId(row["job_id"]): row["waits_for"] for row in found}

    async def unscored_waves(self, job_id: JobId, steps: Sequence[int]) -> list[Wave]:
        """Return a job's waves of these steps that have a revision but no score yet, by step."""
        return [from_row(row, Wave) for row in await self._pool.fetch(_UNSCORED, job_id, steps)]

    async def wave(self, wave_id: WaveId, *, within: "PostgresConnection | None" = None) -> Wave | None:
        """Return one wave, read ``within`` an open transaction where one is given."""
        asked = within or self._pool
        row = await asked.fetchrow(f"{_WAVE} WHERE wave_id = $1", wave_id)
        return None if row is None else from_row(row, Wave)

    async def note_logprobs(self, job_id: JobId, wave_id: WaveId, logprobs: Claim) -> None:
        """Record the claim of the trainer's log-probabilities of a wave, if the wave is known. Idempotent."""
        await self._pool.execute(_COMPARED, job_id, wave_id, msgspec.to_builtins(logprobs))

    async def teachers(self, *, after: str, limit: int) -> list[Digest]:
        """Return the revisions that are teachers of jobs which have not ended, by digest."""
        return [Digest(row["digest"]) for row in await self._pool.fetch(_TEACHERS, after, limit)]

    async def next_of(self, policy_id: PolicyId) -> Job | None:
        """Return the first waiting job of a policy, or None while another one runs, or is paused midway."""
        row = await self._pool.fetchrow(_NEXT, policy_id)
        return None if row is None else from_row(row, Job)

    async def lock_next(self, connection: PostgresConnection, policy_id: PolicyId) -> Job | None:
        """Return the same and lock the start of the policy's jobs until the transaction ends."""
        await connection.execute(_LOCK_POLICY, policy_id)
        row = await connection.fetchrow(f"{_NEXT} FOR UPDATE", policy_id)
        return None if row is None else from_row(row, Job)

    async def overdue(self, *, before: float) -> list[PolicyId]:
        """Return the policies with a job that waits since ``before`` although no other one holds it back."""
        return [PolicyId(row["policy_id"]) for row in await self._pool.fetch(_OVERDUE, before)]

    async def usage(self, tenant_id: TenantId, *, since: float) -> JobUsage:
        """Return the use of a tenant's jobs."""
        row = await self._pool.fetchrow(_USAGE, tenant_id, since)
        assert row is not None, "an aggregate has a row"
        return from_row(row, JobUsage)

    async def scored_by_runs(self) -> list[Job]:
        """Return the jobs that have not ended and whose revisions are measured by evaluation runs."""
        return [from_row(row, Job) for row in await self._pool.fetch(_SCORED_BY_RUNS)]

    async def touch(self, job_id: JobId, *, now: float) -> bool:
        """Record progress of a job; return whether it still runs."""
        status = await self._pool.execute(
            "UPDATE jobs SET progress_at = greatest(progress_at, $2) WHERE job_id = $1 AND state = 'running'",
            job_id,
            now,
        )
        return status == "UPDATE 1"

    async def claim_stalled(self, *, before: float, waiting_since: float | None, now: float) -> list[Job]:
        """Return the running jobs without progress since ``before``, each to one caller only.

        Not those whose open wave is not sampled yet, if they had progress after ``waiting_since``. A claim
        counts as progress, so that a job is claimed again only after another such time.
        """
        rows = await self._pool.fetch(_CLAIM_STALLED, before, now, waiting_since)
        return [from_row(row, Job) for row in rows]
