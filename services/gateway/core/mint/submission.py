"""A job between the user's request and the moment that rollout has taken it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mint_common.events import JobSpec
from mint_common.ids import JobId, PolicyId
from mint_common.json_types import JsonObject
from services.gateway.core.fine_tuning.records import FineTuning


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedJob:
    """A submitted job; ``submitted_at`` is seconds since the epoch, ``policy`` the name of its policy.

    ``fine_tuning`` is of a job on a file.
    """

    job_id: JobId
    policy_id: PolicyId
    policy: str
    base: str
    spec: JobSpec
    submitted_at: float
    warnings: tuple[str, ...]
    fine_tuning: FineTuning | None = None


def describe_submission(submission: SubmittedJob) -> JsonObject:
    """Return the job as the API shows it before rollout knows it: the same fields, and no step yet."""
    return {
        "job_id": submission.job_id,
        "policy_id": submission.policy_id,
        "policy": submission.policy,
        "base": submission.base,
        "state": "submitted",
        "is_pausing": False,
        "reason": "",
        "fault": None,
        "spec": _shown_spec(asdict(submission.spec)),
        "warnings": list(submission.warnings),
        "fine_tuning": _fine_tuning(submission),
        "step": 0,
        "total_steps": submission.spec.steps,
        "reward": None,
        "best": None,
        "result": None,
        "stopped_early": False,
        "trained_tokens": 0,
        "created_at": submission.submitted_at,
        "started_at": None,
        "finished_at": None,
        "steps": [],
    }


def complete_job(job: JsonObject, submission: SubmittedJob | None) -> JsonObject:
    """Return rollout's job with what its submission says of it."""
    return {
        **job,
        "spec": _shown_spec(job["spec"]),
        "policy": job["policy_id"] if submission is None else submission.policy,
        "warnings": [] if submission is None else list(submission.warnings),
        "fine_tuning": None if submission is None else _fine_tuning(submission),
    }


def _without_grader(job: SubmittedJob) -> SubmittedJob:
    if job.spec.data is None:
        return job
    return replace(job, spec=replace(job.spec, data=replace(job.spec.data, grader=None)))


def _shown_spec(spec: Any) -> JsonObject:  # JSON
    """Return a job's spec without where the bytes of its files are stored."""
    data = spec["data"]
    if data is None:
        return {**spec}
    shown = {**data, "training": _shown_file(data["training"])}
    plan = data["evaluation"]
    if plan is not None and plan["file"] is not None:
        shown["evaluation"] = {**plan, "file": _shown_file(plan["file"])}
    return {**spec, "data": shown}


def _shown_file(file: JsonObject) -> JsonObject:
    return {name: value for name, value in file.items() if name != "content"}


def _fine_tuning(submission: SubmittedJob) -> JsonObject | None:
    return None if submission.fine_tuning is None else asdict(submission.fine_tuning)


def merge_jobs(
    submitted: Sequence[SubmittedJob], known: Sequence[JsonObject], *, limit: int
) -> list[JsonObject]:
    """Return the newest jobs: those that rollout has not taken yet, then rollout's own newest ``limit``.

    Without graders, as rollout lists them.

    A job that is older than all of a full list may be missing there because rollout cut it off.
    """
    taken = {job["job_id"] for job in known}
    by_id = {str(item.job_id): item for item in submitted}
    oldest = known[-1]["created_at"] if len(known) >= limit else 0.0
    assert isinstance(oldest, float), "rollout says seconds"
    waiting = [
        describe_submission(_without_grader(item))
        for item in submitted
        if item.job_id not in taken and item.submitted_at > oldest
    ]
    completed = [complete_job(job, by_id.get(str(job["job_id"]))) for job in known]
    return [*waiting, *completed][:limit]
