"""Events of a job on a file, with the texts of OpenAI's API.

Pure, from the newest to the oldest, and only as many as requested. An event's id is derived from its job
and content, so it is the same at every read.
"""

from collections.abc import Iterator
from heapq import merge
from operator import itemgetter
from typing import Literal

from mint_common.ids import derive_id
from mint_common.json_types import JsonObject
from services.rollout.core.fine_tuning.answers import checkpoint_id
from services.rollout.core.fine_tuning.names import shown_id
from services.rollout.core.job import Job, JobState
from services.rollout.core.job_view import JobProgress, model_name, was_measured
from services.rollout.core.wave import Wave

Level = Literal["info", "warn", "error"]


def job_events(found: JobProgress) -> Iterator[JsonObject]:
    """Yield the events of a job, newest first."""
    yield from _of_the_end(found)
    yield from _of_the_steps(found)
    started_at = found.progress.started_at
    if started_at is not None:
        yield _event(found.job, "started", started_at, "Fine-tuning job started")
    yield from _of_the_beginning(found.job)


def _of_the_beginning(job: Job) -> Iterator[JsonObject]:
    data, at = job.spec.data, job.created_at
    assert data is not None, job.job_id
    validation = data.evaluation.file if data.evaluation else None
    named = data.training.file_id
    if validation is not None:
        named += f" and validation file: {validation.file_id}"
    yield _event(job, "queued", at, "Files validated, moving job to queued state")
    for place, warning in reversed(list(enumerate(job.warnings))):
        yield _event(job, f"warning-{place}", at, warning, level="warn")
    yield _event(job, "validating", at, f"Validating training file: {named}")
    yield _event(job, "created", at, f"Created fine-tuning job: {shown_id(job.job_id)}")


def _of_the_steps(found: JobProgress) -> Iterator[JsonObject]:
    """Yield the steps' events and their scores, which may be known after later steps."""
    steps = found.published[::-1]
    measured = sorted(filter(was_measured, steps), key=_measured_at, reverse=True)
    told = merge(
        ((_measured_at(step), _of_a_measured_step, step) for step in measured),
        ((_published_at(step), _of_a_step, step) for step in steps),
        key=itemgetter(0),
        reverse=True,
    )
    for at, events, step in told:
        yield from events(found, step, at)


def _published_at(step: Wave) -> float:
    return step.published_at or step.requested_at


def _measured_at(step: Wave) -> float:
    return step.scored_at or _published_at(step)


def _of_a_measured_step(found: JobProgress, step: Wave, at: float) -> Iterator[JsonObject]:
    assert step.revision is not None, step
    job, reward = found.job, step.metrics.get("valid_reward_mean")
    name = model_name(job, step.revision)
    message = f"Checkpoint created at step {step.step} with Snapshot ID: {name}"
    yield _event(job, f"checkpoint-{step.step}", at, message, data={"id": checkpoint_id(job, step.step)})
    if job.spec.is_sampled and reward is not None:
        message = f"{_head(job, step)}, full validation mean reward={reward:.2f}"
        yield _event(job, f"valid-{step.step}", at, message, data=_data(found, step))


def _of_a_step(found: JobProgress, step: Wave, at: float) -> Iterator[JsonObject]:
    job, counts = found.job, step.counts
    head = _head(job, step)
    if counts.dropped_rows:
        message = f"{head}: {counts.dropped_rows} rows were longer than the context, and left out"
        yield _event(job, f"dropped-{step.step}", at, message, level="warn")
    if counts.grader_errors:
        told = ", ".join(f"{kind}={count}" for kind, count in sorted(counts.grader_errors.items()))
        yield _event(job, f"graders-{step.step}", at, f"{head}: grader errors: {told}", level="warn")
    message = head + (_reward(step) if job.spec.is_sampled else _losses(step))
    yield _event(job, f"step-{step.step}", at, message, data=_data(found, step))


def _head(job: Job, step: Wave) -> str:
    return f"Step {step.step}/{job.spec.steps}"


def _reward(step: Wave) -> str:
    return "" if step.reward_mean is None else f", train mean reward={step.reward_mean:.2f}"


def _losses(step: Wave) -> str:
    found = (("training loss", "loss"), ("validation loss", "valid_loss"))
    told = ", ".join(f"{name}={step.metrics[key]:.2f}" for name, key in found if key in step.metrics)
    return f": {told}" if told else ""


def _data(found: JobProgress, step: Wave) -> JsonObject:
    """Return the numbers of a step that are known."""
    numbers: dict[str, float | None] = {
        "step": step.step,
        "total_steps": found.job.spec.steps,
        "epoch": found.epoch(step),
        "learning_rate": step.metrics.get("learning_rate"),
        **found.metrics(step),
    }
    return {name: value for name, value in numbers.items() if value is not None}


def _of_the_end(found: JobProgress) -> Iterator[JsonObject]:
    if not found.is_ended:
        return
    job = found.job
    yield from _of_the_promotion(job)
    at = job.finished_at or job.created_at
    if job.state is JobState.CANCELLED:
        yield _event(job, "cancelled", at, "The job was cancelled", level="warn")
    elif job.state is JobState.FAILED:
        yield _failure(job, at)
    else:
        yield _event(job, "succeeded", at, "The job has successfully completed")
        if job.result is not None:
            name = model_name(job, job.result)
            yield _event(job, "model", at, f"New fine-tuned model created: {name}")
        if job.stopped_early:
            message = f"Stopped early after step {found.progress.step}: evaluations did not get better"
            yield _event(job, "stopped-early", at, message)


def _of_the_promotion(job: Job) -> Iterator[JsonObject]:
    promotion = job.fine_tuning.promote if job.fine_tuning else None
    if promotion is None or promotion.ended_at is None:
        return
    if promotion.problem:
        message = f"Alias {promotion.alias} was not moved: {promotion.problem}"
        yield _event(job, "promotion", promotion.ended_at, message, level="warn")
    elif job.result is not None:
        message = f"Alias {promotion.alias} was pointed at {model_name(job, job.result)}"
        yield _event(job, "promotion", promotion.ended_at, message)


def _failure(job: Job, at: float) -> JsonObject:
    if job.fault is None:
        return _event(job, "failed", at, f"The job failed: {job.reason}", level="error")
    data: JsonObject = {"code": job.fault.code, "param": job.fault.param, "line": job.fault.line}
    return _event(job, "failed", at, f"The job failed: {job.fault.message}", level="error", data=data)


def _event(
    job: Job,
    what: str,
    at: float,
    message: str,
    *,
    level: Level = "info",
    data: JsonObject | None = None,
) -> JsonObject:
    is_metrics = what.startswith(("step-", "valid-"))
    return {
        "id": derive_id("ftevent", job.job_id, what).replace("_", "-"),
        "object": "fine_tuning.job.event",
        "created_at": int(at),
        "level": level,
        "message": message,
        "type": "metrics" if is_metrics else "message",
        "data": data or {},
    }
