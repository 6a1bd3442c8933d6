"""A job on a file as OpenAI's API shows it. Pure: a projection of the submission and of rollout's job."""

from dataclasses import asdict

from mint_common.ids import TenantId
from services.gateway.core.fine_tuning.names import results_id, shown_id
from services.gateway.core.fine_tuning.promotions import promotion_answer
from services.gateway.core.fine_tuning.records import FineTuning, TunedJob, model_name
from services.gateway.core.fine_tuning.results import has_results
from services.gateway.core.json_types import JsonObject
from services.gateway.core.mint.submission import SubmittedJob

_ALWAYS = ("n_epochs", "batch_size", "learning_rate_multiplier")


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
        "on_long": data.on_long,
        "max_new_tokens": spec.max_new_tokens if spec.algorithm == "grpo" else None,
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
