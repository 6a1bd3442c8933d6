"""A managed job: a chain of waves, each sampled at the newest revision that the job has published.

Invariants:
- A policy has one writer: at most one of its jobs runs; the others wait in order of submission.
- At most one wave of a job is open; its step is ``steps_done + 1`` and its id is derived from (job, step).
- Only an event of the open wave changes a job, so duplicate and late events have no effect.
- A finished job never changes again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from mint_common.claims import Claim, RevisionRef
from mint_common.events import (
    Event,
    JobFinished,
    JobSpec,
    JobSubmitted,
    LoraSpec,
    RevisionPublished,
    RevisionRejected,
    TrainingFailed,
    WaveCancelled,
    WaveCompleted,
    WaveRequested,
)
from mint_common.ids import BaseName, JobId, PolicyId, TenantId, WaveId, derive_id
from services.rollout.core.outcome import judge
from services.rollout.core.wave import Wave

Fact = WaveCompleted | WaveCancelled | RevisionPublished | RevisionRejected | TrainingFailed
"""Events that can change a running job."""


class JobState(StrEnum):
    """The state of a job."""

    SUBMITTED = "submitted"
    """It waits for the earlier jobs of its policy."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job after its last event.

    ``revision`` is the one that the next wave samples at: the newest that the job published, at first the
    policy's newest. ``cause`` is the ledger cause of the events that the job waits for; repeating them
    resumes a job whose messages were lost. ``progress_at`` is the time of the last progress.
    """

    tenant_id: TenantId
    base: BaseName
    job_id: JobId
    policy_id: PolicyId
    lora: LoraSpec
    spec: JobSpec
    state: JobState
    reason: str
    steps_done: int
    revision: RevisionRef | None
    cause: str
    created_at: float
    progress_at: float
    finished_at: float | None

    @property
    def step(self) -> int:
        """Return the step of the open wave."""
        return self.steps_done + 1

    @property
    def wave_id(self) -> WaveId:
        """Return the id of the open wave."""
        return wave_id_of(self.job_id, self.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """A job after an event, and the events to emit."""

    job: Job
    events: tuple[Event, ...] = ()


def wave_id_of(job_id: JobId, step: int) -> WaveId:
    """Return the id of a job's wave."""
    return WaveId(derive_id("wave", job_id, step))


def open_job(event: JobSubmitted, *, now: float) -> Job:
    """Return the waiting job of a submission."""
    return Job(
        tenant_id=event.tenant_id,
        base=event.base,
        job_id=event.job_id,
        policy_id=event.policy_id,
        lora=event.lora,
        spec=event.spec,
        state=JobState.SUBMITTED,
        reason="",
        steps_done=0,
        revision=None,
        cause=event.id,
        created_at=now,
        progress_at=now,
        finished_at=None,
    )


def begin(job: Job, prompts: Claim, *, revision: RevisionRef | None, cause: str, now: float) -> Advance:
    """Start a waiting job: request its first wave at its policy's newest revision."""
    assert job.state is JobState.SUBMITTED, job.state
    started = replace(job, state=JobState.RUNNING, revision=revision)
    return _request_wave(started, prompts, cause=cause, now=now)


def next_step(job: Job, fact: Fact) -> int | None:
    """Return the step whose wave `advance` will request, so that its prompts can be drawn before."""
    return job.step + 1 if _is_published(job, fact) and job.step < job.spec.steps else None


def is_last_step(job: Job, fact: Fact) -> bool:
    """Return whether the event ends the job's last step, so that `advance` needs the job's waves."""
    return _is_published(job, fact) and job.step >= job.spec.steps


def _is_published(job: Job, fact: Fact) -> bool:
    waited_for = job.state is JobState.RUNNING and fact.wave_id == job.wave_id
    return waited_for and isinstance(fact, RevisionPublished)


def advance(
    job: Job, fact: Fact, *, cause: str, prompts: Claim | None, waves: Sequence[Wave] = (), now: float
) -> Advance:
    """Return the job after an event, and the events to emit.

    ``prompts`` is the claim of the prompts of `next_step`; ``waves`` are all of the job, needed at its
    last step only (`is_last_step`). Events of a completed or cancelled wave are emitted by this service, if
    the job still waits for that wave.
    """
    if job.state is not JobState.RUNNING or fact.wave_id != job.wave_id:
        return Advance(job=job)
    if isinstance(fact, WaveCompleted):
        return Advance(job=replace(job, cause=cause, progress_at=now), events=(fact,))
    if isinstance(fact, RevisionPublished):
        return _publish(job, fact, prompts, waves, cause=cause, now=now)
    failed = finish(job, "failed", failure_reason(fact), now=now)
    return replace(failed, events=(fact, *failed.events)) if isinstance(fact, WaveCancelled) else failed


def cancel(job: Job, *, reason: str, now: float) -> Advance:
    """Cancel the job and its open wave; a finished job does not change."""
    return _stop(job, "cancelled", reason, now=now)


def give_up(job: Job, *, reason: str, now: float) -> Advance:
    """Fail the job and its open wave, because the event that it waits for cannot be handled."""
    return _stop(job, "failed", reason, now=now)


def _stop(job: Job, outcome: Literal["failed", "cancelled"], reason: str, *, now: float) -> Advance:
    if job.state not in (JobState.SUBMITTED, JobState.RUNNING):
        return Advance(job=job)
    stopped = finish(job, outcome, reason, now=now)
    if job.state is JobState.SUBMITTED:
        return stopped
    wave = WaveCancelled(
        tenant_id=job.tenant_id,
        base=job.base,
        wave_id=job.wave_id,
        job_id=job.job_id,
        policy_id=job.policy_id,
        reason=reason,
    )
    return replace(stopped, events=(wave, *stopped.events))


def finish(
    job: Job, outcome: Literal["succeeded", "failed", "cancelled"], reason: str, *, now: float
) -> Advance:
    """End the job with an outcome."""
    ended = replace(job, state=JobState(outcome), reason=reason, progress_at=now, finished_at=now)
    event = JobFinished(
        tenant_id=job.tenant_id,
        base=job.base,
        job_id=job.job_id,
        policy_id=job.policy_id,
        outcome=outcome,
        reason=reason,
        steps_done=job.steps_done,
        last_revision=job.revision.digest if job.revision is not None and job.steps_done else None,
    )
    return Advance(job=ended, events=(event,))


def failure_reason(fact: WaveCancelled | RevisionRejected | TrainingFailed) -> str:
    """Return the reason that a job fails with."""
    if isinstance(fact, RevisionRejected):
        return f"revision rejected ({fact.code}): {fact.reason}"
    if isinstance(fact, TrainingFailed):
        return f"training failed ({fact.code}): {fact.reason}"
    return f"wave cancelled: {fact.reason}"


def _publish(
    job: Job,
    fact: RevisionPublished,
    prompts: Claim | None,
    waves: Sequence[Wave],
    *,
    cause: str,
    now: float,
) -> Advance:
    done = replace(job, steps_done=job.step, revision=fact.revision)
    if done.steps_done >= job.spec.steps:
        verdict = judge(job.spec, waves)
        return finish(done, verdict.outcome, verdict.reason, now=now)
    return _request_wave(done, prompts, cause=cause, now=now)


def _request_wave(job: Job, prompts: Claim | None, *, cause: str, now: float) -> Advance:
    assert prompts is not None, "next_step names the step whose prompts advance needs"
    wave = WaveRequested(
        tenant_id=job.tenant_id,
        base=job.base,
        wave_id=job.wave_id,
        job_id=job.job_id,
        policy_id=job.policy_id,
        step=job.step,
        revision=job.revision,
        prompts=prompts,
        lora=job.lora,
        spec=job.spec,
    )
    return Advance(job=replace(job, cause=cause, progress_at=now), events=(wave,))
