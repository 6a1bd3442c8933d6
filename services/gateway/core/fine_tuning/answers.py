"""A job on a file, its checkpoints and its results as OpenAI's API shows them.

Pure: projections of the submission and of rollout's job.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict

from mint_common.ids import TenantId, derive_id
from mint_common.json_types import JsonObject
from services.gateway.core.fine_tuning.names import results_id, shown_id
from services.gateway.core.fine_tuning.promotions import promotion_answer
from services.gateway.core.fine_tuning.records import METRICS, FineTuning, TunedJob, TunedStep, model_name
from services.gateway.core.mint.submission import SubmittedJob

_ALWAYS = ("n_epochs", "batch_size", "learning_rate_multiplier")
_OTHER_NAMES = {"train_mean_token_accuracy": "train_accuracy"}
"""Metrics that OpenAI's files of results have under another name."""


def job_answer(job: SubmittedJob, now: TunedJob, *, tenant_id: TenantId, at: float) -> JsonObject:
    """Return a ``fine_tuning.job``; ``at`` is the time, in seconds since the epoch."""
    told, data = job.fine_tuning, job.spec.data
    assert told is not None, job.job_id
    assert data is not None, job.job_id
    validation = data.evaluation.file if data.evaluation else None
    return {
        "id": shown_id(job.job_id),
        "object": "fine_tuning.job",
        "created_at": int(job.submitted_at),
        "finished_at": None if now.finished_at is None else int(now.finished_at),
        "estimated_finish": _estimated_finish(now, at=at),
        "status": now.status,
        "model": told.model,
        "fine_tuned_model": None if now.result is None else model_name(job.policy, now.result),
        "organization_id": tenant_id,
        "training_file": data.training.file_id,
        "validation_file": None if validation is None else validation.file_id,
        "result_files": [results_id(job.job_id)] if has_results(now) else [],
        "trained_tokens": now.trained_tokens if now.is_ended else None,
        "seed": job.spec.seed,
        "metadata": told.metadata,
        "integrations": [],
        "error": _error(now),
        "hyperparameters": {name: told.hyperparameters[name] for name in _ALWAYS},
        "method": _method(told, data.grader),
        "suffix": told.suffix,
        "mint": _mint(job, told, now),
    }


def _method(told: FineTuning, grader: JsonObject | None) -> JsonObject:
    settings: JsonObject = {"hyperparameters": told.hyperparameters}
    if grader is not None:
        settings["grader"] = grader
    return {"type": told.method, told.method: settings}


def _mint(job: SubmittedJob, told: FineTuning, now: TunedJob) -> JsonObject:
    spec, data = job.spec, job.spec.data
    assert data is not None, job.job_id
    return {
        "job_id": job.job_id,
        "policy": job.policy,
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
        "step": now.step,
        "total_steps": spec.steps,
        "stopped_early": now.stopped_early,
        "warnings": list(job.warnings),
    }


def _evaluation(plan: JsonObject) -> JsonObject:
    """Return a plan without where its file's bytes are stored."""
    file = plan["file"]
    return {**plan, "file": file["file_id"] if isinstance(file, dict) else None}


def _error(now: TunedJob) -> JsonObject | None:
    if now.state != "failed":
        return None
    if now.fault is None:
        return {"code": "job_failed", "message": now.reason, "param": None}
    fault = now.fault
    told: JsonObject = {"code": fault.code, "message": fault.message, "param": fault.param}
    return told if fault.line is None else {**told, "line": fault.line}


def _estimated_finish(now: TunedJob, *, at: float) -> int | None:
    """Return when the job ends if its steps go on as they did."""
    if now.state != "running" or now.started_at is None or not now.step:
        return None
    seconds_a_step = max(0.0, at - now.started_at) / now.step
    return int(at + seconds_a_step * max(0, now.total_steps - now.step))


def checkpoint_id(job: SubmittedJob, step: int) -> str:
    """Return the id of the checkpoint of a step, whenever it is asked for."""
    return derive_id("ftckpt", job.job_id, step)


def checkpoints(job: SubmittedJob, now: TunedJob) -> Iterator[JsonObject]:
    """Yield the checkpoints, newest first; that with the best score so far is ``best``."""
    is_measured = job.spec.data is not None and job.spec.data.evaluation is not None
    best = now.best.step if now.best is not None and is_measured else None
    published = [step for step in now.steps if step.revision is not None]
    for step in reversed(published):
        if step.is_evaluated or (now.is_ended and step is published[-1]):
            yield _checkpoint(job, step, is_best=step.step == best)


def _checkpoint(job: SubmittedJob, step: TunedStep, *, is_best: bool) -> JsonObject:
    assert step.revision is not None, step.step
    return {
        "id": checkpoint_id(job, step.step),
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(step.published_at or step.requested_at),
        "fine_tuned_model_checkpoint": model_name(job.policy, step.revision),
        "fine_tuning_job_id": shown_id(job.job_id),
        "step_number": step.step,
        "metrics": {
            "step": step.step,
            **step.metrics,
            "full_valid_loss": step.valid_loss,
            "full_valid_mean_token_accuracy": step.valid_mean_token_accuracy,
        },
        "mint": {"digest": step.revision.digest, "best": is_best},
    }


def has_results(now: TunedJob) -> bool:
    """Return whether a job has results: it has ended, and finished a step before."""
    return now.is_ended and now.step > 0


def results_csv(now: TunedJob) -> bytes:
    """Return the published steps of a job."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = [_OTHER_NAMES.get(name, name) for name in METRICS]
    writer.writerow(["step", "epoch", "learning_rate", *metrics])
    for step in now.steps:
        if step.revision is not None:
            values = (step.step, step.epoch, step.learning_rate, *step.metrics.values())
            writer.writerow(["" if value is None else value for value in values])
    return text.getvalue().encode()


def results_file(job: SubmittedJob, now: TunedJob, *, size_bytes: int) -> JsonObject:
    """Return the ``file`` that has a job's results, as the API shows it."""
    return {
        "id": results_id(job.job_id),
        "object": "file",
        "bytes": size_bytes,
        "created_at": int(now.finished_at or job.submitted_at),
        "expires_at": None,
        "filename": "step_metrics.csv",
        "purpose": "fine-tune-results",
        "status": "processed",
        "status_details": None,
    }
