"""A job with how far it is, as MinT's API shows it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import msgspec

from mint_common.claims import RevisionRef
from mint_common.events import JobSpec
from mint_common.json_types import JsonObject
from services.rollout.core.job import Job, JobState
from services.rollout.core.job_control import is_over
from services.rollout.core.progress import Progress
from services.rollout.core.staleness import by_staleness, phase_seconds, staleness_of
from services.rollout.core.wave import Wave

METRICS: Mapping[str, str] = {
    "train_loss": "loss",
    "train_mean_token_accuracy": "mean_token_accuracy",
    "train_reward_mean": "reward_mean",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
    "valid_reward_mean": "valid_reward_mean",
    "valid_reward_margin": "valid_reward_margin",
    "valid_reward_accuracy": "valid_reward_accuracy",
}
"""The metrics of a step by the names that users know, each with its field of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """A job, its progress, and its waves by step if requested. ``waits_for``: why it makes no progress."""

    job: Job
    progress: Progress
    waves: Sequence[Wave] = ()
    waits_for: str = ""

    @property
    def is_ended(self) -> bool:
        """Return whether the job has reached its final state."""
        return is_over(self.job)

    @property
    def published(self) -> list[Wave]:
        """Return the waves that led to a revision, by step."""
        return [wave for wave in self.waves if wave.revision is not None]

    def metrics(self, wave: Wave) -> dict[str, float | None]:
        """Return the scores of a step, by the names of `METRICS`."""
        step = _measured_at(self.job, wave)
        return {name: step.get(field) for name, field in METRICS.items()}

    def epoch(self, wave: Wave) -> float | None:
        """Return how often the rows had been gone through after a step; None for a job on a task."""
        data = self.job.spec.data
        return None if data is None else data.epochs * wave.step / self.job.spec.steps


def status_of(job: Job) -> str:
    """Return the state as OpenAI's API names it: a job's files were checked before it was made."""
    if job.is_pausing and job.state is JobState.RUNNING:
        return "pausing"
    return "queued" if job.state is JobState.SUBMITTED else job.state.value


def was_measured(wave: Wave) -> bool:
    """Return whether a wave's revision was measured on validation rows."""
    return any(wave.metrics.get(name) is not None for name in ("valid_loss", "valid_reward_mean"))


def model_name(job: Job, revision: RevisionRef) -> str:
    """Return the name of a revision, which never means another one."""
    return f"{policy_name(job)}@{revision.number}"


def policy_name(job: Job) -> str:
    """Return the name of a job's policy; its id where no request said the name."""
    return job.policy or job.policy_id


def job_view(found: JobProgress, *, after_step: int = 0) -> JsonObject:
    """Return a job as MinT's API shows it, with the steps of the given waves that come after one."""
    job, progress = found.job, found.progress
    lags = staleness_of(found.waves)
    rows = by_staleness(found.waves) if job.spec.is_sampled else []
    return {
        "job_id": job.job_id,
        "policy_id": job.policy_id,
        "policy": policy_name(job),
        "base": job.base,
        "state": job.state.value,
        "is_pausing": job.is_pausing,
        "reason": job.reason,
        "waits_for": found.waits_for,
        "fault": msgspec.to_builtins(job.fault),
        "spec": _shown_spec(job.spec),
        "warnings": list(job.warnings),
        "fine_tuning": None if job.fine_tuning is None else asdict(job.fine_tuning),
        "step": progress.step,
        "total_steps": job.spec.steps,
        "reward": progress.reward if _has_rewards(job) else None,
        "best": msgspec.to_builtins(progress.best),
        "result": None if job.result is None else {"digest": job.result.digest, "number": job.result.number},
        "stopped_early": job.stopped_early,
        "trained_tokens": progress.trained_tokens,
        "created_at": job.created_at,
        "started_at": progress.started_at,
        "finished_at": job.finished_at,
        "by_staleness": [asdict(row) for row in rows],
        "steps": [_step(found, wave, lags[wave.step]) for wave in found.waves if wave.step > after_step],
    }


def _has_rewards(job: Job) -> bool:
    """Return whether its waves have rewards of a task or a grader."""
    return job.spec.data is None or job.spec.is_sampled


def _measured_at(job: Job, wave: Wave) -> dict[str, float | None]:
    return {**wave.metrics, "reward_mean": wave.reward_mean if _has_rewards(job) else None}


def _shown_spec(spec: JobSpec) -> JsonObject:
    """Return a job's spec without where the bytes of its files are stored."""
    shown = msgspec.to_builtins(spec)
    if spec.data is not None:
        del shown["data"]["training"]["content"]
        if spec.data.evaluation is not None and spec.data.evaluation.file is not None:
            del shown["data"]["evaluation"]["file"]["content"]
    return cast(JsonObject, shown)


def _step(found: JobProgress, wave: Wave, lag: int) -> JsonObject:
    """Return one step; MinT's own fields override the trainer's metrics of equal names."""
    of_kind: JsonObject = {}
    if found.job.spec.is_sampled:
        of_kind["staleness_tokens"] = {str(lag): wave.counts.trained_tokens} if wave.completed_at else {}
    if found.job.spec.environment is not None:
        counts = wave.counts
        of_kind |= {
            "episodes": counts.episodes,
            "dropped_groups": counts.dropped_groups,
            "left_out_segments": counts.left_out_segments,
        }
    if found.job.spec.data is not None:
        of_kind |= {"epoch": found.epoch(wave), "dropped_rows": wave.counts.dropped_rows}
    if found.job.spec.dynamic_sampling is not None:
        of_kind["replaced_groups"] = wave.counts.replaced_groups
    return {
        **_measured_at(found.job, wave),
        "step": wave.step,
        "wave_id": wave.wave_id,
        "state": wave.state.value,
        "sampled": wave.sampled,
        "sampled_number": wave.sampled_number,
        "staleness": lag,
        "phase_seconds": phase_seconds(wave),
        "revision": msgspec.to_builtins(wave.revision),
        "requested_at": wave.requested_at,
        "completed_at": wave.completed_at,
        "published_at": wave.published_at,
        "scored_at": wave.scored_at,
        "grader_errors": wave.counts.grader_errors,
        **of_kind,
    }
