"""A managed job as the public API describes it, and what is told of it; unknown fields are ignored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A revision's number and digest."""

    number: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNow:
    """One step of a job.

    The answers of revision ``sampled_number`` (None: of the base) had the mean reward ``reward_mean``, and
    training on them gave ``revision``. ``ratio_max_error`` is the largest distance of an importance ratio
    from 1, ``sampler_kl`` the divergence of the sampler from the trainer, a token. ``seconds`` are the
    trainer's, export included; the wave was sampled from ``requested_at`` to ``completed_at``, in seconds
    since the epoch.
    """

    step: int
    state: str
    sampled_number: int | None = None
    reward_mean: float | None = None
    revision: Ref | None = None
    ratio_max_error: float | None = None
    sampler_kl: float | None = None
    seconds: float | None = None
    requested_at: float | None = None
    completed_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """What a job was asked to do."""

    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestNow:
    """The sampled revision with the highest mean reward."""

    number: int
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNow:
    """A managed job. Times are seconds since the epoch; ``step`` counts finished steps."""

    state: str
    job_id: str = ""
    policy: str = ""
    spec: JobSettings = JobSettings()
    reason: str = ""
    warnings: tuple[str, ...] = ()
    step: int = 0
    total_steps: int = 0
    best: BestNow | None = None
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    steps: tuple[StepNow, ...] = ()

    @property
    def done(self) -> tuple[StepNow, ...]:
        """Return the steps that have ended."""
        return tuple(step for step in self.steps if step.state == "published")


def read_job(answer: object) -> JobNow:
    """Return what ``GET /mint/v1/jobs/{job}`` answered."""
    return msgspec.convert(answer, JobNow)


def seconds_taken(job: JobNow, *, now: float) -> float:
    """Return how long a job has taken since its first step, or has waited for it."""
    return max(0.0, (job.finished_at or now) - (job.started_at or job.created_at))


def seconds_left(job: JobNow, *, now: float) -> float | None:
    """Return how long the remaining steps take at the pace of those that are done; None: nobody knows."""
    if job.started_at is None or not job.step or job.state in TERMINAL:
        return None
    return (now - job.started_at) / job.step * (job.total_steps - job.step)


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def headline(job: JobNow, *, now: float) -> str:
    """Return what is trained, how far it is, how long it takes and what is best so far."""
    parts = [job.state, f"step {job.step}/{job.total_steps}", duration(seconds_taken(job, now=now))]
    left = seconds_left(job, now=now)
    if left is not None:
        parts.append(f"about {duration(left)} left")
    if job.best is not None:
        parts.append(f"best revision {job.best.number} ({job.best.reward:.3f})")
    return f"{job.policy} on {job.spec.task}: {', '.join(parts)}"


def step_row(step: StepNow, tiers: Mapping[str, str]) -> dict[str, object]:
    """Return the row of a step; the tier is that of its revision, "stored" when it is on no engine."""
    ref = step.revision
    return {
        "step": step.step,
        "sampled": step.sampled_number or ("base" if step.reward_mean is not None else None),
        "reward": step.reward_mean,
        "bar": step.reward_mean,
        "revision": ref.number if ref else None,
        "digest": ref.digest if ref else None,
        "tier": tiers.get(ref.digest, "stored") if ref else step.state,
    }


def tiers_of(adapters: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the tier of each digest that ``GET /mint/v1/adapters`` lists."""
    return {adapter["digest"]: adapter["tier"] for adapter in adapters}


def job_row(answer: Mapping[str, object], *, now: float) -> dict[str, object]:
    """Return the row of a job in a list."""
    job = read_job(answer)
    took = duration(seconds_taken(job, now=now)) if job.started_at is not None else None
    return {**answer, "step": f"{job.step}/{job.total_steps}", "took": took}
