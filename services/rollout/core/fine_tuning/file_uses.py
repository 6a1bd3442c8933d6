"""Uses of a file: jobs, and the revisions trained on it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Literal

from mint_common.events import JobSpec
from mint_common.file_requests import FileUse, JobUse
from mint_common.ids import JobId
from services.rollout.core.fine_tuning.names import shown_id
from services.rollout.core.job import Job
from services.rollout.core.job_view import policy_name, status_of

MAX_JOBS, MAX_REVISIONS = 1000, 1000
"""Maximum named in an answer; all are counted."""


def job_files(spec: JobSpec) -> Mapping[str, str]:
    """Return the files that a job reads, each with where its request has it."""
    data = spec.data
    if data is None:
        return {}
    found = {data.training.file_id: "training_file"}
    if data.evaluation is not None and data.evaluation.file is not None:
        found.setdefault(data.evaluation.file.file_id, "validation_file")
    return found


def newest_trained(file_id: str, readers: Sequence[Job]) -> list[JobId]:
    """Return the newest jobs that were trained on a file, until `MAX_REVISIONS` revisions are theirs."""
    found, revision_count = [], 0
    for job in _trained(file_id, readers):
        if revision_count >= MAX_REVISIONS:
            break
        if job.steps_done:
            found.append(job.job_id)
            revision_count += job.steps_done
    return found


def file_use(file_id: str, readers: Sequence[Job], numbers: Mapping[JobId, Sequence[int]]) -> FileUse:
    """Return what used a file.

    ``readers`` are its jobs, newest first; ``numbers`` of revisions are those of `newest_trained`.
    """
    trained = _trained(file_id, readers)
    # A step that trains nothing has the revision of the step before, or that which its job began with.
    revisions = list(
        dict.fromkeys(f"{policy_name(job)}@{n}" for job in trained for n in numbers.get(job.job_id, ()))
    )
    return FileUse(
        jobs=tuple(_job_use(file_id, job) for job in readers[:MAX_JOBS]),
        job_count=len(readers),
        revisions=tuple(revisions[:MAX_REVISIONS]),
        revision_count=len(revisions) + sum(job.steps_done for job in trained if job.job_id not in numbers),
    )


def _trained(file_id: str, readers: Sequence[Job]) -> list[Job]:
    return [job for job in readers if _use(file_id, job) == "training"]


def _job_use(file_id: str, job: Job) -> JobUse:
    return JobUse(
        job=shown_id(job.job_id), status=status_of(job), policy=policy_name(job), use=_use(file_id, job)
    )


def _use(file_id: str, job: Job) -> Literal["training", "validation"]:
    return "training" if job_files(job.spec)[file_id] == "training_file" else "validation"
