"""A job between the user's request and the moment that rollout has taken it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mint_common.events import JobSpec
from mint_common.ids import JobId, PolicyId
from services.gateway.core.json_types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A submitted job; ``submitted_at`` is seconds since the epoch."""

    job_id: JobId
    policy_id: PolicyId
    base: str
    spec: JobSpec
    submitted_at: float


def describe_submission(submission: Submission) -> JsonObject:
    """Return the job as the API shows it before rollout knows it: the same fields, and no step yet."""
    return {
        "job_id": submission.job_id,
        "policy_id": submission.policy_id,
        "base": submission.base,
        "state": "submitted",
        "reason": "",
        "spec": asdict(submission.spec),
        "created_at": submission.submitted_at,
        "finished_at": None,
        "steps": [],
    }


def merge_jobs(
    submitted: Sequence[Submission], known: Sequence[JsonObject], *, limit: int
) -> list[JsonObject]:
    """Return the newest jobs: those that rollout has not taken yet, then rollout's own newest ``limit``.

    A job that is older than all of a full list may be missing there because rollout cut it off.
    """
    taken = {job.get("job_id") for job in known}
    oldest = known[-1]["created_at"] if len(known) >= limit else 0.0
    assert isinstance(oldest, float), "rollout says seconds"
    waiting = [
        describe_submission(item)
        for item in submitted
        if item.job_id not in taken and item.submitted_at > oldest
    ]
    return [*waiting, *known][:limit]
