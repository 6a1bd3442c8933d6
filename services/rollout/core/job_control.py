"""Users' control of a job: stop, pause, resume; and the failure of one that cannot continue."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from mint_common.claims import Claim
from mint_common.errors import InvalidField
from services.rollout.core.job import Advance, Job, JobState
from services.rollout.core.job_end import finish
from services.rollout.core.job_steps import request_waves


def stop(job: Job, outcome: Literal["failed", "cancelled"], reason: str, *, now: float) -> Advance:
    """End the job and its open waves: for its user, or because the event that it waits for cannot be handled.

    A finished job does not change.
    """
    if is_over(job):
        return Advance(job=job)
    return finish(job, outcome, reason, cancels=job.open_steps, now=now)


def pause(job: Job, *, now: float) -> Advance:
    """Stop the job after its open waves; one that waits does not begin. Raises InvalidField after its end."""
    _check_open(job)
    if job.state is JobState.PAUSED or job.is_pausing:
        return Advance(job=job)
    controlled = replace(job, controls=job.controls + 1)
    if job.state is JobState.SUBMITTED:
        return Advance(job=replace(controlled, state=JobState.PAUSED, progress_at=now))
    return Advance(job=replace(controlled, is_pausing=True))


def resume(job: Job, prompts: Mapping[int, Claim], *, cause: str, now: float) -> Advance:
    """Let the job go on; one that has not begun waits for its turn again. Raises InvalidField after its end.

    ``prompts`` are those of `resumed_steps`. Raises Unavailable when the job moved on since.
    """
    _check_open(job)
    if job.state is not JobState.PAUSED and not job.is_pausing:
        return Advance(job=job)
    controlled = replace(job, is_pausing=False, controls=job.controls + 1)
    if job.state is JobState.RUNNING:
        return Advance(job=controlled)
    if not has_begun(job):
        return Advance(job=replace(controlled, state=JobState.SUBMITTED, progress_at=now))
    return request_waves(replace(controlled, state=JobState.RUNNING), prompts, cause=cause, now=now)


def resumed_steps(job: Job) -> range:
    """Return the steps whose waves `resume` may request, so that their prompts can be drawn before."""
    if job.state is JobState.PAUSED and has_begun(job):
        return job.due_steps
    if not job.is_pausing:
        return range(0)
    stopped = replace(job, steps_done=job.open_steps.stop - 1, requested=job.open_steps.stop - 1)
    return stopped.due_steps  # it may stop meanwhile


def has_begun(job: Job) -> bool:
    """Return whether a paused job has taken steps: one that is paused while it waits has not."""
    return job.steps_done > 0


def is_over(job: Job) -> bool:
    """Return whether a job has ended."""
    return job.state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


def _check_open(job: Job) -> None:
    if is_over(job):
        raise InvalidField(field="job", problem=f"it has ended ({job.state.value})")
