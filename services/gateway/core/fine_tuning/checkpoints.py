"""Checkpoints of a job on a file: the revisions that were evaluated, and the last one of a job that ended."""

from collections.abc import Iterator

from mint_common.ids import derive_id
from services.gateway.core.fine_tuning.names import shown_id
from services.gateway.core.fine_tuning.records import TunedJob, TunedStep, model_name
from services.gateway.core.json_types import JsonObject
from services.gateway.core.mint.submission import SubmittedJob


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
