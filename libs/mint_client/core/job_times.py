"""The time of a job before it starts, estimated from those that ran on the same base before."""

from collections.abc import Sequence
from dataclasses import dataclass

from mint_client.core.jobs import JobNow, duration

ROUGH = 4.0
"""An estimate from steps that are this many times smaller or larger is called rough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds per step of an earlier job, with sampling, evaluation and export, and the size of its steps."""

    job_id: str
    step_seconds: float
    step_size: float


def step_size(job: JobNow, *, row_tokens: float | None) -> float | None:
    """Return the size of a job's steps: in answers if it samples, else in trained tokens; None: unknown.

    ``row_tokens`` are the trained tokens of an average row.
    """
    spec = job.spec
    if spec.is_sampled:
        return spec.prompts_per_step * spec.group_size
    if row_tokens is not None:
        return row_tokens * spec.prompts_per_step or None
    return job.trained_tokens / job.step if job.step and job.trained_tokens else None


def step_time_of(jobs: Sequence[JobNow], *, like: JobNow, size: float | None) -> StepTime | None:
    """Return the step time of the ended job whose steps have the most similar size; the first of equals.

    It has the same base and algorithm, and as long answers if it samples.
    """
    found = [step_time for job in jobs if _is_like(job, like) and (step_time := _step_time(job)) is not None]
    if size is None:
        return None
    return min(found, key=lambda one: max(one.step_size / size, size / one.step_size), default=None)


def _is_like(job: JobNow, like: JobNow) -> bool:
    kinds = [(each.base, each.spec.algorithm, each.spec.max_new_tokens) for each in (job, like)]
    return job.job_id != like.job_id and kinds[0] == kinds[1]


def _step_time(job: JobNow) -> StepTime | None:
    size = step_size(job, row_tokens=None)
    if not (job.started_at and job.finished_at and job.step and size):
        return None
    seconds = max(job.finished_at - job.started_at, 0.1)
    return StepTime(job_id=job.job_id, step_seconds=seconds / job.step, step_size=size)


def time_in_words(job: JobNow, size: float | None, earlier: StepTime | None) -> str:
    """Return the estimated duration of a job, if an earlier one allows it."""
    if earlier is None or size is None:
        return f"known after the first steps: no {job.spec.algorithm} job like it has ended on {job.base} yet"
    ratio = size / earlier.step_size
    rough = "" if 1 / ROUGH <= ratio <= ROUGH else f" whose steps were {_times(ratio)}: rough"
    seconds = earlier.step_seconds * ratio * job.spec.steps
    return f"about {duration(seconds)}; an estimate from {earlier.job_id}{rough}"


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times smaller" if ratio > 1 else f"{1 / ratio:.0f} times larger"
