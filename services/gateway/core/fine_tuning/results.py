"""The results of a job on a file, as CSV: a row a step."""

import csv
import io
from collections.abc import Callable, Mapping

from services.gateway.core.fine_tuning.names import results_id
from services.gateway.core.fine_tuning.records import TunedJob, TunedStep
from services.gateway.core.json_types import JsonObject
from services.gateway.core.mint.submission import SubmittedJob

PURPOSE = "fine-tune-results"

COLUMNS: Mapping[str, Callable[[TunedStep], float | None]] = {
    "step": lambda step: step.step,
    "epoch": lambda step: step.epoch,
    "learning_rate": lambda step: step.learning_rate,
    "train_loss": lambda step: step.loss,
    "train_accuracy": lambda step: step.mean_token_accuracy,
    "train_reward_mean": lambda step: step.reward_mean,
    "valid_loss": lambda step: step.valid_loss,
    "valid_mean_token_accuracy": lambda step: step.valid_mean_token_accuracy,
    "valid_reward_mean": lambda step: step.valid_reward_mean,
    "valid_reward_margin": lambda step: step.valid_reward_margin,
    "valid_reward_accuracy": lambda step: step.valid_reward_accuracy,
}
"""Columns by their names; a step that was not evaluated has none of the ``valid_`` ones."""


def has_results(now: TunedJob) -> bool:
    """Return whether a job has results: it has ended, and finished a step before."""
    return now.is_ended and now.step > 0


def results_csv(now: TunedJob) -> bytes:
    """Return the published steps of a job."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for step in now.steps:
        if step.revision is not None:
            values = [read(step) for read in COLUMNS.values()]
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
        "purpose": PURPOSE,
        "status": "processed",
        "status_details": None,
    }
