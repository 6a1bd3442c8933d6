"""A job on a file, its checkpoints and its results as OpenAI's API shows them.

Pure: projections of a job and its waves.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice

from mint_common.errors import InvalidField, NotFound
from mint_common.ids import derive_id
from mint_common.json_types import JsonObject
from services.rollout.core.files.answers import page_answer
from services.rollout.core.fine_tuning.names import results_id, shown_id
from services.rollout.core.fine_tuning.promotions import promotion_answer
from services.rollout.core.fine_tuning.records import FineTuning
from services.rollout.core.job import Job, JobState
from services.rollout.core.job_view import (
    METRICS,
    JobProgress,
    model_name,
    policy_name,
    status_of,
    was_measured,
)
from services.rollout.core.wave import Wave

_ALWAYS = ("n_epochs", "batch_size", "learning_rate_multiplier")
_OTHER_NAMES = {"train_mean_token_accuracy": "train_accuracy"}
"""Metrics that OpenAI's files of results have under another name."""

MAX_METADATA = 16


def job_answer(found: JobProgress, *, at: float) -> JsonObject:
    """Return a ``fine_tuning.job``; ``at`` is the time, in seconds since the epoch."""
    job = found.job
    told, data = job.fine_tuning, job.spec.data
    assert told is not None, job.job_id
    assert data is not None, job.job_id
    validation = data.evaluation.file if data.evaluation else None
    return {
        "id": shown_id(job.job_id),
        "object": "fine_tuning.job",
        "created_at": int(job.created_at),
        "finished_at": None if job.finished_at is None else int(job.finished_at),
        "estimated_finish": _estimated_finish(found, at=at),
        "status": status_of(job),
        "model": told.model,
        "fine_tuned_model": None if job.result is None else model_name(job, job.result),
        "organization_id": job.tenant_id,
        "training_file": data.training.file_id,
        "validation_file": None if validation is None else validation.file_id,
        "result_files": [results_id(job.job_id)] if has_results(found) else [],
        "trained_tokens": found.progress.trained_tokens if found.is_ended else None,
        "seed": job.spec.seed,
        "metadata": told.metadata,
        "integrations": list(told.integrations),
        "error": _error(job),
        "hyperparameters": {name: told.hyperparameters[name] for name in _ALWAYS},
        "method": _method(told, data.grader),
        "suffix": told.suffix,
        "mint": _mint(found, told),
    }


def _method(told: FineTuning, grader: JsonObject | None) -> JsonObject:
    settings: JsonObject = {"hyperparameters": told.hyperparameters}
    if grader is not None:
        settings["grader"] = grader
    return {"type": told.method, told.method: settings}


def _mint(found: JobProgress, told: FineTuning) -> JsonObject:
    job = found.job
    spec, data = job.spec, job.spec.data
    assert data is not None, job.job_id
    return {
        "job_id": job.job_id,
        "policy": policy_name(job),
        "policy_id": job.policy_id,
        "base": job.base,
        "rank": told.lora.rank,
        "alpha": told.lora.alpha,
        "targets": list(told.lora.targets),
        "learning_rate": spec.learning_rate,
        "schedule": spec.schedule,
        "warmup_steps": spec.warmup_steps,
        "optimizer": spec.optimizer,
        "on_long": data.on_long,
        "max_new_tokens": spec.max_new_tokens if spec.is_sampled else None,
        "group_size": spec.group_size,
        "evaluation": None if data.evaluation is None else _evaluation(asdict(data.evaluation)),
        "promote": None if told.promote is None else promotion_answer(told.promote),
        "training_sha256": data.training.content.sha256,
        "training_rows": data.training.rows,
        "step": found.progress.step,
        "total_steps": spec.steps,
        "stopped_early": job.stopped_early,
        "waits_for": found.waits_for,
        "warnings": list(job.warnings),
    }


def _evaluation(plan: JsonObject) -> JsonObject:
    """Return a plan without where its file's bytes are stored."""
    file = plan["file"]
    return {**plan, "file": file["file_id"] if isinstance(file, dict) else None}


def _error(job: Job) -> JsonObject | None:
    if job.state is not JobState.FAILED:
        return None
    if job.fault is None:
        return {"code": "job_failed", "message": job.reason, "param": None}
    fault = job.fault
    told: JsonObject = {"code": fault.code, "message": fault.message, "param": fault.param}
    return told if fault.line is None else {**told, "line": fault.line}


def _estimated_finish(found: JobProgress, *, at: float) -> int | None:
    """Return when the job ends if its steps go on as they did."""
    job, now = found.job, found.progress
    if job.state is not JobState.RUNNING or now.started_at is None or not now.step:
        return None
    seconds_a_step = max(0.0, at - now.started_at) / now.step
    return int(at + seconds_a_step * max(0, job.spec.steps - now.step))


def checkpoint_id(job: Job, step: int) -> str:
    """Return the id of a step's checkpoint, the same at every call."""
    return derive_id("ftckpt", job.job_id, step)


def checkpoints(found: JobProgress) -> Iterator[JsonObject]:
    """Yield the checkpoints, newest first; that with the best score so far is ``best``."""
    best = found.progress.best if found.job.plan is not None else None
    for step in reversed(found.published):
        if was_measured(step) or (found.is_ended and step is found.published[-1]):
            yield _checkpoint(found, step, is_best=best is not None and step.step == best.step)


def _checkpoint(found: JobProgress, step: Wave, *, is_best: bool) -> JsonObject:
    assert step.revision is not None, step.step
    job, metrics = found.job, found.metrics(step)
    return {
        "id": checkpoint_id(job, step.step),
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(step.published_at or step.requested_at),
        "fine_tuned_model_checkpoint": model_name(job, step.revision),
        "fine_tuning_job_id": shown_id(job.job_id),
        "step_number": step.step,
        "metrics": {
            "step": step.step,
            **metrics,
            "full_valid_loss": metrics["valid_loss"],
            "full_valid_mean_token_accuracy": metrics["valid_mean_token_accuracy"],
        },
        "mint": {"digest": step.revision.digest, "best": is_best},
    }


def has_results(found: JobProgress) -> bool:
    """Return whether a job has results: it has ended, and finished a step before."""
    return found.is_ended and found.progress.step > 0


def results_csv(found: JobProgress) -> bytes:
    """Return the published steps of a job."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = [_OTHER_NAMES.get(name, name) for name in METRICS]
    writer.writerow(["step", "epoch", "learning_rate", *metrics])
    for wave in found.published:
        rate = wave.metrics.get("learning_rate")
        values = (wave.step, found.epoch(wave), rate, *found.metrics(wave).values())
        writer.writerow(["" if value is None else value for value in values])
    return text.getvalue().encode()


def results_file(job: Job, *, size_bytes: int) -> JsonObject:
    """Return the ``file`` that has a job's results, as the API shows it."""
    return {
        "id": results_id(job.job_id),
        "object": "file",
        "bytes": size_bytes,
        "created_at": int(job.finished_at or job.created_at),
        "expires_at": None,
        "filename": "step_metrics.csv",
        "purpose": "fine-tune-results",
        "status": "processed",
        "status_details": None,
    }


def page_of(items: Iterable[JsonObject], *, kind: str, after: str | None, limit: int) -> JsonObject:
    """Return the ``limit`` items after ``after``. Raises NotFound when no item has that id."""
    left: Iterator[JsonObject] = iter(items)
    if after is not None and not any(item["id"] == after for item in left):
        raise NotFound(kind=kind, name=after[:100])
    return page_answer(list(islice(left, limit + 1)), lambda item: item, limit=limit)


def metadata_wanted(query: Iterable[tuple[str, str]]) -> dict[str, str] | None:
    """Return the filter of a query ``metadata[name]=value``; None for ``metadata=null``: jobs without any.

    Raises InvalidField.
    """
    found: dict[str, str] = {}
    for name, value in query:
        if name == "metadata":
            if value != "null":
                raise InvalidField(field="metadata", problem="is metadata[name]=value, or null")
            return None
        if name.startswith("metadata[") and name.endswith("]"):
            found[name.removeprefix("metadata[").removesuffix("]")] = value
    if len(found) > MAX_METADATA or any("\0" in text for pair in found.items() for text in pair):
        raise InvalidField(field="metadata", problem=f"is {MAX_METADATA} pairs of texts at most")
    return found
