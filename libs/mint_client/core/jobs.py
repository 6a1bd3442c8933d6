"""A managed job as the public API describes it, and its texts; unknown fields are ignored."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import msgspec

from mint_client.core.columns import FILE_STEP, MEASURED_STEP, STEP, Column
from mint_client.core.tables import counted

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
    trainer's, export included, ``phase_seconds`` those of all phases; the wave was sampled from
    ``requested_at`` to ``completed_at``, in seconds since the epoch.

    The fields from ``learning_rate`` on are of jobs on files: ``valid_*`` of the step's revision on the
    validation rows, at evaluated steps; ``grader_errors`` by kind; rows that were too long and left out.
    """

    step: int
    state: str
    sampled_number: int | None = None
    reward_mean: float | None = None
    revision: Ref | None = None
    ratio_max_error: float | None = None
    sampler_kl: float | None = None
    seconds: float | None = None
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    requested_at: float | None = None
    completed_at: float | None = None
    learning_rate: float | None = None
    epoch: float | None = None
    loss: float | None = None
    mean_token_accuracy: float | None = None
    preference_margin: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    valid_reward_mean: float | None = None
    valid_reward_margin: float | None = None
    grader_errors: Mapping[str, int] = field(default_factory=dict)
    dropped_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessNow:
    """The trained samples of one staleness: steps, tokens, and what their age costs; see the job's steps."""

    staleness: int
    steps: int
    tokens: int
    kl: float | None = None
    effective_sample_share: float | None = None
    masked_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileNow:
    """A file of rows."""

    filename: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationNow:
    """A job's interval and rows of evaluation, and the metric that compares its revisions."""

    every: int
    rows: int
    file: FileNow | None
    holdout: float
    metric: str
    keep: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataNow:
    """The rows of a job on a file."""

    training: FileNow
    epochs: int
    evaluation: EvaluationNow | None = None

    @property
    def held_out_rows(self) -> int:
        """Return the number of rows of the training file that are evaluated on instead."""
        return int(self.evaluation.holdout * self.training.rows) if self.evaluation else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentNow:
    """The environment of a job, and how revisions are measured there, if they are."""

    kind: str
    id: str
    evaluation: EvaluationNow | None = None

    @property
    def source(self) -> str:
        """Return it as ``--env`` has it."""
        return self.kind if self.id == self.kind else f"{self.kind}:{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """A job's requested settings; ``data`` and ``environment`` are None when it trains on a task."""

    task: str = ""
    algorithm: str = "grpo"
    steps: int = 0
    prompts_per_step: int = 0
    group_size: int = 1
    max_new_tokens: int = 0
    learning_rate: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0
    data: DataNow | None = None
    environment: EnvironmentNow | None = None

    @property
    def is_sampled(self) -> bool:
        """Return whether its steps sample answers."""
        return self.group_size > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionNow:
    """An alias that is pointed at a job's result: when it was moved, or was not for a ``problem``."""

    alias: str
    ended_at: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuningNow:
    """Fields of the request of a job on a file besides its settings."""

    promote: PromotionNow | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BestNow:
    """The best revision: by the mean ``reward`` of its samples, of a job on a file by a ``metric``."""

    number: int
    reward: float | None = None
    metric: str = ""
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNow:
    """A managed job. Times are seconds since the epoch; ``step`` counts finished steps.

    ``waits_for`` is a sentence: why it makes no progress, if the stack knows.
    """

    state: str
    job_id: str = ""
    policy: str = ""
    base: str = ""
    spec: JobSettings = JobSettings()
    reason: str = ""
    waits_for: str = ""
    warnings: tuple[str, ...] = ()
    step: int = 0
    total_steps: int = 0
    best: BestNow | None = None
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    steps: tuple[StepNow, ...] = ()
    by_staleness: tuple[StalenessNow, ...] = ()
    result: Ref | None = None
    stopped_early: bool = False
    trained_tokens: int | None = None
    fine_tuning: FineTuningNow | None = None

    @property
    def promotion(self) -> PromotionNow | None:
        """Return the state of its promotion, if one was requested."""
        return self.fine_tuning.promote if self.fine_tuning else None

    @property
    def done(self) -> tuple[StepNow, ...]:
        """Return the steps that have ended."""
        return tuple(step for step in self.steps if step.state == "published")

    @property
    def source(self) -> str:
        """Return its training data: a task, an environment, or a file."""
        if self.spec.environment is not None:
            return self.spec.environment.source
        return self.spec.task if self.spec.data is None else self.spec.data.training.filename

    @property
    def metric(self) -> str:
        """Return the metric that compares the job's revisions; empty: none."""
        measured = self.spec.data or self.spec.environment
        evaluation = None if measured is None else measured.evaluation
        return "" if evaluation is None else evaluation.metric

    def score_of(self, number: int) -> float | None:
        """Return the job's metric of a revision, None if the job did not measure it."""
        scores = {step.revision.number: step for step in self.steps if step.revision is not None}
        return getattr(scores.get(number), self.metric, None) if self.metric else None

    @property
    def validation_rows(self) -> int:
        """Return how many rows or tasks measure a revision; 0: none."""
        data, environment = self.spec.data, self.spec.environment
        if environment is not None and environment.evaluation is not None:
            return environment.evaluation.rows
        found = None if data is None else data.evaluation
        if data is None or found is None:
            return 0
        return min(found.rows, data.held_out_rows if found.file is None else found.file.rows)

    @property
    def ties(self) -> tuple[int, ...]:
        """Return the other revisions whose score equals that of the best, which is the earliest of them."""
        if self.best is None or self.best.value is None:
            return ()
        scored = {
            step.revision.number: getattr(step, self.best.metric, None)
            for step in self.steps
            if step.revision
        }
        return tuple(n for n, score in scored.items() if score == self.best.value and n != self.best.number)


def read_job(answer: object) -> JobNow:
    """Return what ``GET /mint/v1/jobs/{job}`` answered."""
    return msgspec.convert(answer, JobNow)


def seconds_taken(job: JobNow, *, now: float) -> float:
    """Return how long a job has taken since its first step, or has waited for it."""
    return max(0.0, (job.finished_at or now) - (job.started_at or job.created_at))


def seconds_left(job: JobNow, *, now: float) -> float | None:
    """Return the estimated time of the remaining steps, from the finished ones; None: unknown."""
    if job.started_at is None or not job.step or job.state != "running":
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
    """Return what is trained, its progress, its remaining time and its best result."""
    parts = [
        "waiting" if job.waits_for else job.state,
        f"step {job.step}/{job.total_steps}",
        duration(seconds_taken(job, now=now)),
    ]
    left = seconds_left(job, now=now)
    if left is not None:
        parts.append(f"about {duration(left)} left")
    if job.best is not None:
        parts.append(f"best revision {job.best.number}{_score(job.best, len(job.ties))}")
    parts += [f"{count} {what}" for what, count in _left_out(job).items() if count]
    return f"{job.policy} on {job.source}: {', '.join(parts)}"


def _score(best: BestNow, ties: int) -> str:
    if best.value is not None:
        as_others = f", a tie with {counted(ties, 'other')}" if ties else ""
        return f" ({best.metric} {best.value:.3f}{as_others})"
    return "" if best.reward is None else f" ({best.reward:.3f})"


def _left_out(job: JobNow) -> dict[str, int]:
    errors = sum(sum(step.grader_errors.values()) for step in job.steps)
    return {"grader errors": errors, "rows too long": sum(step.dropped_rows for step in job.steps)}


def phase_line(job: JobNow) -> str:
    """Return the mean seconds of the phases of a job's ended steps, a line; empty without any."""
    ended = [step.phase_seconds for step in job.steps if "training" in step.phase_seconds]
    if not ended:
        return ""
    means = {name: sum(each[name] for each in ended) / len(ended) for name in ended[0]}
    return "a step took " + ", ".join(f"{seconds:.1f} s {name}" for name, seconds in means.items())


def staleness_rows(job: JobNow) -> list[dict[str, object]]:
    """Return the rows of a job's samples by staleness; none unless some were stale."""
    is_stale = any(row.staleness for row in job.by_staleness)
    return [asdict(row) for row in job.by_staleness] if is_stale else []


def is_scored(step: StepNow) -> bool:
    """Return whether a step's revision was measured on validation rows."""
    return any(
        getattr(step, column.path) is not None for column in FILE_STEP if column.path.startswith("valid_")
    )


def step_columns(job: JobNow) -> tuple[Column, ...]:
    """Return the columns of a job's steps."""
    if job.spec.data is not None:
        return FILE_STEP
    return MEASURED_STEP if job.metric else STEP


def step_rows(job: JobNow, steps: Sequence[StepNow], tiers: Mapping[str, str]) -> list[dict[str, object]]:
    """Return the rows of some steps of a job."""
    if job.spec.data is None:
        return [{**step_row(step, tiers), "valid_reward_mean": step.valid_reward_mean} for step in steps]
    return [_file_step_row(step, tiers, is_sampled=job.spec.is_sampled) for step in steps]


def _file_step_row(step: StepNow, tiers: Mapping[str, str], *, is_sampled: bool) -> dict[str, object]:
    """Return the row of a step of a job on a file.

    Answers of the file were not sampled and have no reward; the loss of sampled answers is always near 0.
    """
    unknown = ("loss",) if is_sampled else ("reward", "sampled")
    return {**asdict(step), **step_row(step, tiers), **dict.fromkeys(unknown)}


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
    shown = {"source": job.source, "step": f"{job.step}/{job.total_steps}", "took": took}
    return {**answer, **shown, "state": "waiting" if job.waits_for else job.state}


def waiting_notes(answers: Sequence[Mapping[str, object]]) -> list[str]:
    """Return why jobs of a list make no progress: a sentence for each reason."""
    waiting = dict[str, list[str]]()
    for job in map(read_job, answers):
        if job.waits_for:
            waiting.setdefault(job.waits_for, []).append(job.job_id)
    return [f"{', '.join(jobs)}: {reason}" for reason, jobs in waiting.items()]
