"""The steps of a job: which waves an event lets it request, and when it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mint_common.claims import Claim, RevisionRef
from mint_common.errors import Unavailable
from mint_common.events import RevisionPublished, WaveCancelled, WaveCompleted, WaveRequested
from services.rollout.core.fault import JobFault, failure_reason
from services.rollout.core.job import (
    Advance,
    Fact,
    Job,
    JobState,
    is_measured,
    is_scored_by_runs,
    wave_id_of,
)
from services.rollout.core.job_end import complete, end_early, finish
from services.rollout.core.outcome import has_no_signal, idle_stop
from services.rollout.core.wave import Wave


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
    idle = idle_stop(job.spec, steps_done=job.step, idle_steps=job.idle_steps + 1)
    may_end = job.step >= job.spec.steps or is_measured(job) or idle is not None
    return _is_published(job, fact) and may_end


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
    idle_steps = job.idle_steps + 1 if has_no_signal(fact.metrics) else 0
    done = replace(job, steps_done=job.step, revision=fact.revision, idle_steps=idle_steps)
    still_open = job.open_steps[1:]
    if done.steps_done >= job.spec.steps:
        if is_scored_by_runs(job):  # what is best is known when they have ended
            return Advance(job=_caused(done, cause, now=now))
        return complete(done, waves, now=now)
    ended = end_early(done, waves, cancels=still_open, now=now)
    if ended is not None:
        return ended
    if fault is not None:
        return finish(replace(done, fault=fault), "failed", fault.message, cancels=still_open, now=now)
    if job.is_pausing:
        paused = replace(done, state=JobState.PAUSED, is_pausing=False, progress_at=now)
        return Advance(job=_caused(done, cause, now=now) if still_open else paused)
    return request_waves(done, prompts, cause=cause, now=now)


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
