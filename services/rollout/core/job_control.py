"""Users' control of a job: stop, pause, resume; and the failure of one that cannot continue."""

from dataclasses import replace
from typing import Literal

from mint_common.claims import Claim
from mint_common.errors import InvalidField, Unavailable
from services.rollout.core.job import Advance, Job, JobState, finish, request_wave, wave_cancelled


def stop(job: Job, outcome: Literal["failed", "cancelled"], reason: str, *, now: float) -> Advance:
    """End the job and its open wave: for its user, or because the event that it waits for cannot be handled.

    A finished job does not change.
    """
    if is_over(job):
        return Advance(job=job)
    stopped = finish(job, outcome, reason, now=now)
    if job.state is not JobState.RUNNING or job.steps_done >= job.spec.steps:
        return stopped
    return replace(stopped, events=(wave_cancelled(job, reason), *stopped.events))


def pause(job: Job, *, now: float) -> Advance:
    """Stop the job after its open wave; one that waits does not begin. Raises InvalidField after its end."""
    _check_open(job)
    if job.state is JobState.PAUSED or job.is_pausing:
        return Advance(job=job)
    controlled = replace(job, controls=job.controls + 1)
    if job.state is JobState.SUBMITTED:
        return Advance(job=replace(controlled, state=JobState.PAUSED, progress_at=now))
    return Advance(job=replace(controlled, is_pausing=True))


def resume(job: Job, prompts: Claim | None, *, cause: str, now: float) -> Advance:
    """Let the job go on; one that has not begun waits for its turn again. Raises InvalidField after its end.

    ``prompts`` are those of `resumed_step`. Raises Unavailable when the job stopped after that was asked.
    """
    _check_open(job)
    if job.state is not JobState.PAUSED and not job.is_pausing:
        return Advance(job=job)
    controlled = replace(job, is_pausing=False, controls=job.controls + 1)
    if job.state is JobState.RUNNING:
        return Advance(job=controlled)
    if not has_begun(job):
        return Advance(job=replace(controlled, state=JobState.SUBMITTED, progress_at=now))
    if prompts is None:
        raise Unavailable(what="the next step of the job", problem="the job has stopped just now")
    return request_wave(replace(controlled, state=JobState.RUNNING), prompts, cause=cause, now=now)


def resumed_step(job: Job) -> int | None:
    """Return the step whose wave `resume` may request, so that its prompts can be drawn before."""
    if job.state is JobState.PAUSED and has_begun(job):
        return job.step
    return job.step + 1 if job.is_pausing and job.step < job.spec.steps else None


def has_begun(job: Job) -> bool:
    """Return whether a paused job has taken steps: one that is paused while it waits has not."""
    return job.steps_done > 0


def is_over(job: Job) -> bool:
    """Return whether a job has ended."""
    return job.state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


def _check_open(job: Job) -> None:
    if is_over(job):
        raise InvalidField(field="job", problem=f"it has ended ({job.state.value})")
