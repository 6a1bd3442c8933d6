"""The results of a job on a file, as CSV: a row a step."""

import csv
import io

from services.gateway.core.fine_tuning.names import results_id
from services.gateway.core.fine_tuning.records import METRICS, TunedJob
from services.gateway.core.json_types import JsonObject
from services.gateway.core.mint.submission import SubmittedJob

PURPOSE = "fine-tune-results"

_OTHER_NAMES = {"train_mean_token_accuracy": "train_accuracy"}
"""Metrics that OpenAI's files of results have under another name."""


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
        "purpose": PURPOSE,
        "status": "processed",
        "status_details": None,
    }
