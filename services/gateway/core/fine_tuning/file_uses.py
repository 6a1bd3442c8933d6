"""What uses a file: jobs, and the revisions that were trained on it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mint_common.events import JobSpec
from services.gateway.core.fine_tuning.names import shown_id
from services.gateway.core.fine_tuning.records import TunedJob, model_name
from services.gateway.core.mint.submission import SubmittedJob

MOST_JOBS, MOST_REVISIONS = 1000, 1000
"""That are named; all are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingJob:
    """A job that reads a file."""

    job: SubmittedJob
    now: TunedJob


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUse:
    """A job and what it reads a file for."""

    job: str
    status: str
    policy: str
    use: Literal["training", "validation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUse:
    """What used a file. ``jobs`` are the newest of all ``job_count``.

    ``revisions`` are the newest that were trained on it, of all ``revision_count``, in which a step of a job
    whose steps were not read counts as one. What a policy is trained on later goes on from them.
    """

    jobs: tuple[JobUse, ...]
    job_count: int
    revisions: tuple[str, ...]
    revision_count: int


def job_files(spec: JobSpec) -> Mapping[str, str]:
    """Return the files that a job reads, each with where its request has it."""
    data = spec.data
    if data is None:
        return {}
    found = {data.training.file_id: "training_file"}
    if data.evaluation is not None and data.evaluation.file is not None:
        found.setdefault(data.evaluation.file.file_id, "validation_file")
    return found


def newest_trained(file_id: str, readers: Sequence[ReadingJob]) -> list[SubmittedJob]:
    """Return the newest jobs that were trained on a file, until `MOST_REVISIONS` revisions are theirs."""
    found, revision_count = [], 0
    for each in _trained(file_id, readers):
        if revision_count >= MOST_REVISIONS:
            break
        if each.now.step:
            found.append(each.job)
            revision_count += each.now.step
    return found


def file_use(file_id: str, readers: Sequence[ReadingJob], with_steps: Sequence[ReadingJob]) -> FileUse:
    """Return what used a file.

    ``readers`` are its jobs, newest first, and ``with_steps`` those of `newest_trained` with their steps.
    """
    # A step that trains nothing has the revision of the step before, or that which its job began with.
    revisions = list(dict.fromkeys(name for each in with_steps for name in _revisions_of(each)))
    listed = {each.job.job_id for each in with_steps}
    unlisted = [each for each in _trained(file_id, readers) if each.job.job_id not in listed]
    return FileUse(
        jobs=tuple(_job_use(file_id, each) for each in readers[:MOST_JOBS]),
        job_count=len(readers),
        revisions=tuple(revisions[:MOST_REVISIONS]),
        revision_count=len(revisions) + sum(each.now.step for each in unlisted),
    )


def _trained(file_id: str, readers: Sequence[ReadingJob]) -> list[ReadingJob]:
    return [each for each in readers if _use(file_id, each) == "training"]


def _revisions_of(reader: ReadingJob) -> Iterator[str]:
    """Yield the name of each step's revision, newest first."""
    for step in reversed(reader.now.steps):
        if step.revision is not None:
            yield model_name(reader.job.policy, step.revision)


def _job_use(file_id: str, reader: ReadingJob) -> JobUse:
    return JobUse(
        job=shown_id(reader.job.job_id),
        status=reader.now.status,
        policy=reader.job.policy,
        use=_use(file_id, reader),
    )


def _use(file_id: str, reader: ReadingJob) -> Literal["training", "validation"]:
    return "training" if job_files(reader.job.spec)[file_id] == "training_file" else "validation"
