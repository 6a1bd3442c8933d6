"""What happened to a job on a file, in the texts that users of OpenAI's API search for.

Pure, from the newest to the oldest: what is not asked for is not made. An event's id is derived from its job
and what it tells, so it is the same whenever it is read.
"""

from collections.abc import Iterator
from heapq import merge
from operator import itemgetter
from typing import Literal

from mint_common.ids import derive_id
from mint_common.json_types import JsonObject
from services.gateway.core.fine_tuning.answers import checkpoint_id
from services.gateway.core.fine_tuning.names import shown_id
from services.gateway.core.fine_tuning.records import TunedJob, TunedStep, model_name
from services.gateway.core.mint.submission import SubmittedJob

Level = Literal["info", "warn", "error"]


def job_events(job: SubmittedJob, now: TunedJob) -> Iterator[JsonObject]:
    """Yield the events of a job, newest first."""
    yield from _of_the_end(job, now)
    yield from _of_the_steps(job, now)
    if now.started_at is not None:
        yield _event(job, "started", now.started_at, "Fine-tuning job started")
    yield from _of_the_beginning(job)


def _of_the_beginning(job: SubmittedJob) -> Iterator[JsonObject]:
    data, at = job.spec.data, job.submitted_at
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


def _of_the_steps(job: SubmittedJob, now: TunedJob) -> Iterator[JsonObject]:
    """Yield what steps did and what they were measured at, which may be known after later steps."""
    steps = [step for step in reversed(now.steps) if step.revision is not None]
    measured = sorted((step for step in steps if step.is_evaluated), key=_measured_at, reverse=True)
    found = merge(
        ((_measured_at(step), _of_a_measured_step, step) for step in measured),
        ((_published_at(step), _of_a_step, step) for step in steps),
        key=itemgetter(0),
        reverse=True,
    )
    for at, events, step in found:
        yield from events(job, step, at)


def _published_at(step: TunedStep) -> float:
    return step.published_at or step.requested_at


def _measured_at(step: TunedStep) -> float:
    return step.scored_at or _published_at(step)


def _of_a_measured_step(job: SubmittedJob, step: TunedStep, at: float) -> Iterator[JsonObject]:
    assert step.revision is not None, step
    name = model_name(job.policy, step.revision)
    message = f"Checkpoint created at step {step.step} with Snapshot ID: {name}"
    yield _event(job, f"checkpoint-{step.step}", at, message, data={"id": checkpoint_id(job, step.step)})
    if job.spec.is_sampled and step.valid_reward_mean is not None:
        message = f"{_head(job, step)}, full validation mean reward={step.valid_reward_mean:.2f}"
        yield _event(job, f"valid-{step.step}", at, message, data=_data(step, job.spec.steps))


def _of_a_step(job: SubmittedJob, step: TunedStep, at: float) -> Iterator[JsonObject]:
    head = _head(job, step)
    if step.dropped_rows:
        message = f"{head}: {step.dropped_rows} rows were longer than the context, and left out"
        yield _event(job, f"dropped-{step.step}", at, message, level="warn")
    if step.grader_errors:
        told = ", ".join(f"{kind}={count}" for kind, count in sorted(step.grader_errors.items()))
        yield _event(job, f"graders-{step.step}", at, f"{head}: grader errors: {told}", level="warn")
    message = head + (_reward(step) if job.spec.is_sampled else _losses(step))
    yield _event(job, f"step-{step.step}", at, message, data=_data(step, job.spec.steps))


def _head(job: SubmittedJob, step: TunedStep) -> str:
    return f"Step {step.step}/{job.spec.steps}"


def _reward(step: TunedStep) -> str:
    return "" if step.reward_mean is None else f", train mean reward={step.reward_mean:.2f}"


def _losses(step: TunedStep) -> str:
    found = (("training loss", step.loss), ("validation loss", step.valid_loss))
    told = ", ".join(f"{name}={value:.2f}" for name, value in found if value is not None)
    return f": {told}" if told else ""


def _data(step: TunedStep, total_steps: int) -> JsonObject:
    """Return the numbers of a step that are known."""
    found: dict[str, float | None] = {
        "step": step.step,
        "total_steps": total_steps,
        "epoch": step.epoch,
        "learning_rate": step.learning_rate,
        **step.metrics,
    }
    return {name: value for name, value in found.items() if value is not None}


def _of_the_end(job: SubmittedJob, now: TunedJob) -> Iterator[JsonObject]:
    if not now.is_ended:
        return
    yield from _of_the_promotion(job, now)
    at = now.finished_at or job.submitted_at
    if now.state == "cancelled":
        yield _event(job, "cancelled", at, "The job was cancelled", level="warn")
    elif now.state == "failed":
        yield _failure(job, now, at)
    else:
        yield _event(job, "succeeded", at, "The job has successfully completed")
        if now.result is not None:
            name = model_name(job.policy, now.result)
            yield _event(job, "model", at, f"New fine-tuned model created: {name}")
        if now.stopped_early:
            message = f"Stopped early after step {now.step}: evaluations did not get better"
            yield _event(job, "stopped-early", at, message)


def _of_the_promotion(job: SubmittedJob, now: TunedJob) -> Iterator[JsonObject]:
    promotion = job.fine_tuning.promote if job.fine_tuning else None
    if promotion is None or promotion.ended_at is None:
        return
    if promotion.problem:
        message = f"Alias {promotion.alias} was not moved: {promotion.problem}"
        yield _event(job, "promotion", promotion.ended_at, message, level="warn")
    elif now.result is not None:
        message = f"Alias {promotion.alias} was pointed at {model_name(job.policy, now.result)}"
        yield _event(job, "promotion", promotion.ended_at, message)


def _failure(job: SubmittedJob, now: TunedJob, at: float) -> JsonObject:
    if now.fault is None:
        return _event(job, "failed", at, f"The job failed: {now.reason}", level="error")
    data: JsonObject = {"code": now.fault.code, "param": now.fault.param, "line": now.fault.line}
    return _event(job, "failed", at, f"The job failed: {now.fault.message}", level="error", data=data)


def _event(
    job: SubmittedJob,
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
