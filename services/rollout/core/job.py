"""A managed job: a chain of waves, each sampled at the newest revision that the job has published.

Invariants:
- A policy has one writer: at most one of its jobs runs; the others wait in order of submission.
- A wave's step counts from 1 and its id is derived from (job, step). The waves of the steps after
  ``steps_done`` up to ``requested`` are open, at most ``staleness`` + 1 of them. That of step s is requested
  once step s - 1 - ``staleness`` is published: its samples are at most ``staleness`` steps older than the
  weights that they change. These numbers are rows, so a restart requests nothing twice.
- Steps are published in order. Only an event of an open wave changes a job, so duplicate and late events
  have no effect. The end of a job cancels its open waves.
- A paused job has no open wave, and continues at the revision where it stopped; its policy's others wait.
- A finished job never changes again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile
from typing import Literal

from mint_common.claims import Claim, RevisionRef
from mint_common.errors import Unavailable
from mint_common.events import (
    EvaluationPlan,
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
from services.rollout.core.fault import JobFault, failure_reason, storable
from services.rollout.core.fine_tuning.records import FineTuning
from services.rollout.core.outcome import judge
from services.rollout.core.validation import best_score, is_evaluated, scores_of, stops_early
from services.rollout.core.wave import Wave

Fact = WaveCompleted | WaveCancelled | RevisionPublished | RevisionRejected | TrainingFailed
"""Events that can change a running job."""


class JobState(StrEnum):
    """The state of a job."""

    SUBMITTED = "submitted"
    """It waits for the earlier jobs of its policy."""
    RUNNING = "running"
    PAUSED = "paused"
    """It waits for its user to resume it."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job after its last event.

    ``revision`` is the one that the next wave samples at: the newest that the job published, at first the
    policy's newest. ``cause`` is the newest ledger cause of events that the job waits for, and
    ``earlier_causes`` may be those of others; repeating them resumes a job whose messages were lost.
    ``progress_at`` is the time of the last progress.

    ``result`` is the revision of a succeeded job, ``fault`` the fault in a failed one's data. A job
    that ``is_pausing`` stops after its open waves; ``controls`` counts pauses and resumptions.

    ``policy`` is the policy's name when the job was submitted; ``warnings`` are for its user.
    ``fine_tuning`` is of a job on a file.
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
    result: RevisionRef | None = None
    stopped_early: bool = False
    fault: JobFault | None = None
    is_pausing: bool = False
    controls: int = 0
    policy: str = ""
    warnings: tuple[str, ...] = ()
    fine_tuning: FineTuning | None = None
    requested: int = 0
    earlier_causes: tuple[str, ...] = ()

    @property
    def plan(self) -> EvaluationPlan | None:
        """Return how its revisions are measured, if they are."""
        return None if self.spec.data is None else self.spec.data.evaluation

    @property
    def step(self) -> int:
        """Return the step that is published next."""
        return self.steps_done + 1

    @property
    def open_steps(self) -> range:
        """Return the steps with an open wave, of a job that runs."""
        # A version without ``requested`` may have advanced the job.
        last = min(max(self.requested, self.step), self.spec.steps)
        return range(self.step, last + 1)

    @property
    def due_steps(self) -> range:
        """Return the steps to request now."""
        return range(max(self.requested, self.steps_done) + 1, self._window_end + 1)

    @property
    def _window_end(self) -> int:
        return min(self.step + self.spec.staleness, self.spec.steps)

    def open_step(self, wave_id: WaveId | None) -> int | None:
        """Return the step of an open wave, None for another wave."""
        steps = (step for step in self.open_steps if wave_id_of(self.job_id, step) == wave_id)
        return next(steps, None) if self.state is JobState.RUNNING else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """A job after an event, and the events to emit."""

    job: Job
    events: tuple[Event, ...] = ()


def wave_id_of(job_id: JobId, step: int) -> WaveId:
    """Return the id of a job's wave."""
    return WaveId(derive_id("wave", job_id, step))


def open_job(
    event: JobSubmitted,
    *,
    policy: str = "",
    warnings: Sequence[str] = (),
    fine_tuning: FineTuning | None = None,
    now: float,
) -> Job:
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
        policy=policy,
        warnings=tuple(warnings),
        fine_tuning=fine_tuning,
    )


def begin(
    job: Job, prompts: Mapping[int, Claim], *, revision: RevisionRef | None, cause: str, now: float
) -> Advance:
    """Start a waiting job: request its first waves at its policy's newest revision."""
    assert job.state is JobState.SUBMITTED, job.state
    started = replace(job, state=JobState.RUNNING, revision=revision)
    return request_waves(started, prompts, cause=cause, now=now)


def next_steps(job: Job, fact: Fact) -> range:
    """Return the steps whose waves `advance` will request, so that their prompts can be drawn before.

    Raises Unavailable for a revision whose predecessor is not handled yet.
    """
    if not _is_published(job, fact):
        return range(0)
    _check_order(job, fact)
    return replace(job, steps_done=job.step).due_steps


def needs_waves(job: Job, fact: Fact) -> bool:
    """Return whether the event may end the job, so that `advance` needs the job's waves."""
    return _is_published(job, fact) and (job.step >= job.spec.steps or is_measured(job))


def is_measured(job: Job) -> bool:
    """Return whether the revision of the job's open step is measured."""
    return is_evaluated(job.plan, step=job.step, steps=job.spec.steps)


def is_scored_by_runs(job: Job) -> bool:
    """Return whether evaluation runs measure the job's revisions, by sampling, and not the trainer."""
    return job.plan is not None and job.spec.is_sampled


def is_unscored(job: Job, wave: Wave) -> bool:
    """Return whether an evaluation run measures the wave's revision, once there is one, and has not ended."""
    is_run = is_scored_by_runs(job) and is_evaluated(job.plan, step=wave.step, steps=job.spec.steps)
    return is_run and wave.scored_at is None


def waits_for(job: Job, fact: Fact) -> bool:
    """Return whether an event is of a wave that the job waits for."""
    return job.open_step(fact.wave_id) is not None


def _is_published(job: Job, fact: Fact) -> bool:
    return waits_for(job, fact) and isinstance(fact, RevisionPublished)


def _check_order(job: Job, fact: Fact) -> None:
    if fact.wave_id != wave_id_of(job.job_id, job.step):
        problem = f"step {job.open_step(fact.wave_id)} is published, step {job.step} is not handled yet"
        raise Unavailable(what="the step before", problem=problem)


def advance(
    job: Job,
    fact: Fact,
    *,
    cause: str,
    prompts: Mapping[int, Claim],
    waves: Sequence[Wave] = (),
    fault: JobFault | None = None,
    now: float,
) -> Advance:
    """Return the job after an event, and the events to emit. Raises Unavailable as `next_steps` does.

    ``prompts`` are the claims of the prompts of `next_steps`; ``waves`` are all of the job with this event,
    when `needs_waves` says so. ``fault`` is the data fault of a cancelled wave, or of the next steps.
    Events of a completed or cancelled wave are emitted by this service, if the job still waits for that wave.
    """
    step = job.open_step(fact.wave_id)
    if step is None:
        return Advance(job=job)
    if isinstance(fact, WaveCompleted):
        return Advance(job=_caused(job, cause, now=now), events=(fact,))
    if isinstance(fact, RevisionPublished):
        _check_order(job, fact)
        return _publish(job, fact, prompts, waves, fault=fault, cause=cause, now=now)
    reason = failure_reason(fact) if fault is None else fault.message
    others = [one for one in job.open_steps if one != step]
    failed = finish(replace(job, fault=fault), "failed", reason, cancels=others, now=now)
    return replace(failed, events=(fact, *failed.events)) if isinstance(fact, WaveCancelled) else failed


def _caused(job: Job, cause: str, *, now: float) -> Job:
    """Return the job waiting for events of another cause too."""
    earlier: tuple[str, ...] = ()
    if job.spec.staleness:
        # Each open wave is requested, then completed.
        earlier = (*job.earlier_causes, job.cause)[-2 * (job.spec.staleness + 1) :]
    return replace(job, cause=cause, earlier_causes=earlier, progress_at=now)


def finish(
    job: Job,
    outcome: Literal["succeeded", "failed", "cancelled"],
    reason: str,
    *,
    cancels: Iterable[int] = (),
    now: float,
) -> Advance:
    """End the job with an outcome; ``cancels`` are the steps of the waves that it leaves open."""
    reason = storable(reason)
    ended = replace(
        job, state=JobState(outcome), reason=reason, is_pausing=False, progress_at=now, finished_at=now
    )
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
    cancelled = [wave_cancelled(job, reason, step=step) for step in cancels]
    return Advance(job=ended, events=(*cancelled, event))


def _publish(
    job: Job,
    fact: RevisionPublished,
    prompts: Mapping[int, Claim],
    waves: Sequence[Wave],
    *,
    fault: JobFault | None,
    cause: str,
    now: float,
) -> Advance:
    done = replace(job, steps_done=job.step, revision=fact.revision)
    still_open = job.open_steps[1:]
    if done.steps_done >= job.spec.steps:
        if is_scored_by_runs(job):  # what is best is known when they have ended
            return Advance(job=_caused(done, cause, now=now))
        return complete(done, waves, now=now)
    stopped = early_stop(done, waves) if is_measured(job) else ""
    if stopped:
        stopped_job = replace(done, stopped_early=True)
        return complete(stopped_job, waves, note=stopped, cancels=still_open, now=now)
    if fault is not None:
        return finish(replace(done, fault=fault), "failed", fault.message, cancels=still_open, now=now)
    if job.is_pausing:
        paused = replace(done, state=JobState.PAUSED, is_pausing=False, progress_at=now)
        return Advance(job=_caused(done, cause, now=now) if still_open else paused)
    return request_waves(done, prompts, cause=cause, now=now)


def early_stop(job: Job, waves: Sequence[Wave]) -> str:
    """Return why a job stops early; empty: it continues.

    Runs end in any order: scores after a missing one do not count yet.
    """
    plan = job.plan
    if plan is None or plan.early_stopping is None:
        return ""
    scored = takewhile(lambda wave: not is_unscored(job, wave), waves)
    if not stops_early(plan.early_stopping, plan.metric, scores_of(plan.metric, list(scored))):
        return ""
    patience = plan.early_stopping.patience
    return (
        f"stopped early after step {job.steps_done} of {job.spec.steps}: {plan.metric} was not better in the"
        f" last {patience} evaluations"
    )


def complete(
    job: Job, waves: Sequence[Wave], *, note: str = "", cancels: Iterable[int] = (), now: float
) -> Advance:
    """End a job without further steps, with the revision that its plan selects; see `finish`."""
    waves = [wave for wave in waves if wave.step <= job.steps_done]
    verdict = judge(job.spec, waves)
    reason = "; ".join(part for part in (note, verdict.reason) if part)
    if verdict.outcome == "succeeded":
        job = replace(job, result=_kept(job, waves))
    return finish(job, verdict.outcome, reason, cancels=cancels, now=now)


def _kept(job: Job, waves: Sequence[Wave]) -> RevisionRef | None:
    plan = job.plan
    best = best_score(plan.metric, scores_of(plan.metric, waves)) if plan and plan.keep == "best" else None
    return best.revision if best else job.revision


def request_waves(job: Job, prompts: Mapping[int, Claim], *, cause: str, now: float) -> Advance:
    """Return the job waiting for the waves of its due steps, which are emitted.

    Raises Unavailable if one of their prompts is missing: the job has moved on since they were drawn.
    """
    due = job.due_steps
    if not set(due) <= set(prompts):
        raise Unavailable(what="the next step of the job", problem="the job has moved on just now")
    waves = tuple(
        WaveRequested(
            tenant_id=job.tenant_id,
            base=job.base,
            wave_id=wave_id_of(job.job_id, step),
            job_id=job.job_id,
            policy_id=job.policy_id,
            step=step,
            revision=job.revision,
            prompts=prompts[step],
            lora=job.lora,
            spec=job.spec,
        )
        for step in due
    )
    requested = max(job.requested, *due) if due else job.requested
    return Advance(job=replace(_caused(job, cause, now=now), requested=requested), events=waves)


def wave_cancelled(wave: WaveRequested | Job, reason: str, *, step: int | None = None) -> WaveCancelled:
    """Return the event that ends a wave, or a job's open one of a step, without a record."""
    wave_id = wave.wave_id if isinstance(wave, WaveRequested) else wave_id_of(wave.job_id, step or wave.step)
    return WaveCancelled(
        tenant_id=wave.tenant_id,
        base=wave.base,
        wave_id=wave_id,
        job_id=wave.job_id,
        policy_id=wave.policy_id,
        reason=reason,
    )
