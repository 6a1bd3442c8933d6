"""Handlers of the events that change a job: its submission and the results of its waves.

Invariant: a job's row, its waves' rows and the events that follow are committed together, under the id of the
event that caused them.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mint_common.blobs.port import Blobs
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import AlreadyHandled, MintError, NotFound, Overloaded
from mint_common.events import (
    EnvironmentSpec,
    Event,
    JobFinished,
    JobSubmitted,
    RevisionPublished,
    RevisionRejected,
    TrainingFailed,
    WaveCompared,
)
from mint_common.ids import JobId, PolicyId
from mint_common.records import Prompt, encode_blob
from mint_common.runtime.fair_gate import FairGate
from mint_common.runtime.postgres_errors import PostgresConnection
from mint_common.runtime.retries import Bury
from services.rollout import metrics
from services.rollout.adapters.peers import RegistryRecords
from services.rollout.core.difficulty import candidates_of, chosen, remembered, remembered_steps
from services.rollout.core.environment import Environments, EnvironmentTask
from services.rollout.core.erasure import prompts_key
from services.rollout.core.fault import fault_of
from services.rollout.core.job import Advance, Job, is_measured, open_job
from services.rollout.core.job_control import resumed_steps
from services.rollout.core.job_end import finish
from services.rollout.core.job_steps import begin, next_steps, waits_for
from services.rollout.core.task import derive_seed
from services.rollout.core.validation import measured
from services.rollout.handlers.commits import Commits, WaveDetails
from services.rollout.handlers.file_rows import FileRows
from services.rollout.ports import Tasks

log = logging.getLogger(__name__)

_REPEATED_SECONDS = 5.0
"""Delay until a repeated event is delivered again while its prompts are being drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    revision: RevisionRef | None
    prompts: dict[int, Claim]


class TurnLostError(Exception):
    """The job was started or cancelled concurrently; rolls the transaction back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobHandlers:
    """Handlers of events about jobs."""

    commits: Commits
    blobs: Blobs
    tasks: Tasks
    environments: Environments
    rows: FileRows
    policies: RegistryRecords
    scores: RegistryRecords
    draws: FairGate
    _storing: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _drawing: set[str] = field(default_factory=set, init=False)

    async def on_job_submitted(self, event: JobSubmitted) -> Sequence[Event]:
        """Start the job unless an earlier job of its policy still runs.

        One that a gateway of the version before has taken is stored first.
        """
        # In the order of delivery, which is that of submission: a policy's jobs begin in it.
        async with self._storing:
            if await self._managed(event.job_id) is None:
                with suppress(AlreadyHandled):
                    async with self.commits.ledger.transaction(event.id) as transaction:
                        opened = open_job(event, now=self.commits.clock.now())
                        await self.commits.write(transaction, None, Advance(job=opened))
        await self.start_next(event.policy_id)
        return ()

    async def on_job_finished(self, event: JobFinished) -> Sequence[Event]:
        """Start the next job of the policy."""
        metrics.JOBS.labels(event.outcome).inc()
        await self.start_next(event.policy_id)
        return ()

    async def start_next(self, policy_id: PolicyId) -> None:
        """Start the first waiting job of a policy, unless one runs. Idempotent.

        A job that cannot start fails with the reason; its end starts the next one.
        """
        job = await self.commits.jobs.next_of(policy_id)
        if job is None:
            return
        cause = f"start:{job.job_id}"
        start = await self._prepared(job)
        try:
            async with self.commits.ledger.transaction(cause) as transaction:
                job, now = await self._take_turn(transaction.connection, job), self.commits.clock.now()
                if isinstance(start, MintError):
                    moved = finish(
                        replace(job, fault=fault_of(start, job.spec.data)), "failed", str(start), now=now
                    )
                else:
                    moved = begin(job, start.prompts, revision=start.revision, cause=cause, now=now)
                await self.commits.write(transaction, None, moved)
        except (AlreadyHandled, TurnLostError):
            return
        log.info("job started", extra={"job_id": job.job_id, "state": moved.job.state})

    async def _prepared(self, job: Job) -> _Start | MintError:
        """Return a job's start parameters, or why it cannot start."""
        try:
            revision = await self.policies.latest(job.tenant_id, job.policy_id)
            return _Start(revision=revision, prompts=await self._drawn(job, job.due_steps))
        except MintError as error:
            if error.retryable:
                raise
            return error

    async def _take_turn(self, connection: PostgresConnection, job: Job) -> Job:
        """Return the job as it is now, which may have been paused and resumed meanwhile."""
        first = await self.commits.jobs.lock_next(connection, job.policy_id)
        if first is None or first.job_id != job.job_id:
            raise TurnLostError
        return first

    async def resume(self, job: Job) -> None:
        """Continue a paused job. Raises InvalidField after its end, and errors of unavailable parts."""
        await self.commits.resume(job, await self._drawn(job, resumed_steps(job)))
        await self.start_next(job.policy_id)

    async def on_revision_published(self, event: RevisionPublished) -> Sequence[Event]:
        """Request the next waves at the published revision, or finish the job after its last step."""
        job = await self._managed(event.job_id)
        if job is None or await self.commits.ledger.is_known(event.id):
            return ()
        steps, prompts, fault = next_steps(job, event), None, None
        try:
            prompts = await self._drawn(job, steps)
        except MintError as error:
            fault = fault_of(error, job.spec.data)
            if fault is None:
                raise
        if is_measured(job) and waits_for(job, event):
            await self._record_scores(job, event)
        await self.commits.commit(
            event, job_id=job.job_id, cause=event.id, prompts=prompts, details=WaveDetails(fault=fault)
        )
        return ()

    async def _record_scores(self, job: Job, event: RevisionPublished) -> None:
        """Record the revision's scores on the validation rows, before the step counts as done."""
        scores = measured(event.metrics)
        wave = await self.commits.jobs.wave(event.wave_id) if scores and event.wave_id else None
        if wave is None or not wave.counts.validation_rows:
            return
        try:
            await self.scores.record_metrics(job, event.revision, scores, n=wave.counts.validation_rows)
        except MintError as error:
            if error.retryable:
                raise
            log.warning("score not recorded", extra={"job_id": job.job_id, "problem": str(error)})

    async def on_wave_compared(self, event: WaveCompared) -> Sequence[Event]:
        """Record where a wave's log-probabilities are; the job does not wait for them."""
        await self.commits.jobs.note_logprobs(event.job_id, event.wave_id, event.logprobs)
        return ()

    async def on_step_failed(self, event: RevisionRejected | TrainingFailed) -> Sequence[Event]:
        """Fail the job with the registry's or the trainer's reason."""
        job = await self._managed(event.job_id)
        if job is not None:
            await self.commits.commit(event, job_id=job.job_id, cause=event.id)
        return ()

    async def on_job_given_up(self, event: JobSubmitted, decision: Bury) -> None:
        """Fail a job that cannot be started, if it was stored."""
        job = await self._managed(event.job_id)
        if job is not None:
            cause = f"start:{job.job_id}"
            await self.commits.give_up(job.job_id, cause=cause, reason=decision.reason)

    async def on_fact_given_up(
        self, event: RevisionPublished | RevisionRejected | TrainingFailed, decision: Bury
    ) -> None:
        """Fail the job whose next event cannot be handled."""
        job = await self._managed(event.job_id)
        if job is not None and waits_for(job, event):
            await self.commits.give_up(job.job_id, cause=event.id, reason=decision.reason)

    async def _managed(self, job_id: JobId | None) -> Job | None:
        """Return the job, or None for an export that belongs to no job of this service."""
        try:
            return None if job_id is None else await self.commits.jobs.job(job_id)
        except NotFound:
            return None

    async def _drawn(self, job: Job, steps: Iterable[int]) -> dict[int, Claim]:
        """Store the prompts of some steps."""
        return {step: await self._store_prompts(job, step) for step in steps}

    async def _store_prompts(self, job: Job, step: int) -> Claim:
        """Store the prompts or rows of a step: the same bytes under the same key every time.

        Raises Overloaded when the step is being drawn, or too many of the tenant's draws wait.
        """
        key = prompts_key(job.policy_id, job.job_id, step)
        if key in self._drawing:
            raise Overloaded(what="the draw of one step", depth=1, retry_after_seconds=_REPEATED_SECONDS)
        self._drawing.add(key)
        try:
            async with self.draws.turn(job.tenant_id):
                return await self._draw(job, step, key)
        finally:
            self._drawing.discard(key)

    async def _draw(self, job: Job, step: int, key: str) -> Claim:
        spec = job.spec
        if spec.data is not None:
            return await self.blobs.put(key, encode_blob(await self.rows.of_step(spec, spec.data, step)))
        seed = derive_seed(spec.seed, "prompts", step)
        if spec.environment is not None:
            drawn = await self._environment_tasks(job, spec.environment, step, seed)
            prompts = [Prompt(text=task.key, reference="", entry=task.entry) for task in drawn]
            return await self.blobs.put(key, encode_blob(prompts))
        prompts = await self.tasks.draw(
            spec.task, "train", spec.prompts_per_step, seed, tenant_id=job.tenant_id
        )
        return await self.blobs.put(key, encode_blob(prompts))

    async def _environment_tasks(
        self, job: Job, environment: EnvironmentSpec, step: int, seed: int
    ) -> list[EnvironmentTask]:
        spec, n = job.spec, job.spec.prompts_per_step
        drawn = await self.environments.draw(
            environment,
            environment.split,
            candidates_of(n, spec.difficulty),
            seed,
            tenant_id=job.tenant_id,
        )
        if spec.difficulty is None:
            return drawn
        waves = await self.commits.jobs.waves_in(job.job_id, remembered_steps(step, staleness=spec.staleness))
        outcomes = remembered([wave.counts for wave in waves])
        return chosen(drawn, outcomes, spec.difficulty, n=n, seed=seed)
