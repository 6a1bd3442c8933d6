"""Managed jobs: a bounded run of waves that trains one policy, over a task or over a tenant's own files."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mint_common.claims import Claim
from mint_common.datasets.formats import Format
from mint_common.events.event import Event
from mint_common.ids import Digest, JobId, PolicyId


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """The LoRA shape of a policy; fixed when the policy is created.

    ``targets`` are leaf names of linear modules (``q_proj``, ...), sorted. The update is scaled by
    ``alpha / rank`` while training; an export folds that factor into B.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    seed: int


LearningRateSchedule = Literal["constant", "linear", "cosine"]
"""Course of the learning rate after the warm-up: constant, or down to 0 at the job's last step."""

OptimizerStart = Literal["keep", "reset"]
"""Whether a job goes on with the policy's optimizer moments, or begins with none."""

EvaluationMetric = Literal["valid_loss", "valid_mean_token_accuracy", "valid_reward_mean"]
"""Metric that compares a job's revisions; a smaller loss is better, and a larger value of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """A checked file as a job reads it: ``content`` claims its bytes, which have ``rows`` rows."""

    file_id: str
    filename: str
    content: Claim
    format: Format
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopping:
    """End the job when ``patience`` evaluations in a row are not better than the best by ``min_delta``.

    The first ``warmup`` evaluations do not count.
    """

    patience: int
    min_delta: float
    warmup: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """Evaluate after every ``every`` steps and after the last one, on at most ``rows`` rows.

    The rows are those of ``file``, or a ``holdout`` share of the training file, told apart by their hashes.
    ``keep`` says which revision the job ends with: the best by ``metric``, or the last.
    """

    every: int
    rows: int
    file: JobFile | None
    holdout: float
    metric: EvaluationMetric
    keep: Literal["best", "last"]
    early_stopping: EarlyStopping | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobData:
    """The rows of a job instead of a task's.

    ``epochs`` is how often the rows are gone through, each time in the order of a shuffle seeded by the
    job's seed and the epoch; a row takes the place of one that is dropped with its whole step, and is drawn
    once more then. ``on_long`` says what becomes of a row that is longer than the base's context.
    ``grader`` is OpenAI's JSON of a grader, of a job that samples answers only.
    """

    training: JobFile
    epochs: int
    on_long: Literal["refuse", "drop"]
    grader: dict[str, Any] | None  # JSON
    evaluation: EvaluationPlan | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What a managed job does, complete: no service fills in a default later.

    ``algorithm`` is a name of `mint_common.algorithms`. ``prompts_per_step`` x ``group_size`` samples make
    one wave; SFT uses the task's reference answers instead of samples and a ``group_size`` of 1.
    ``kl_coefficient`` is the pull to the base: the weight of GRPO's KL term (0 is off), or an algorithm's
    beta. ``clip_norm`` bounds the global gradient norm; 0 is off. With ``data`` the rows come from a file
    instead of a task, whose name is empty then: ``prompts_per_step`` rows a step, and only an algorithm of
    ``rft`` rows samples answers. The learning rate rises linearly over ``warmup_steps``, then follows
    ``schedule``. ``optimizer`` says what becomes of the moments that earlier training of the policy has left.
    """

    algorithm: str
    task: str
    steps: int
    prompts_per_step: int
    group_size: int
    max_new_tokens: int
    temperature: float
    learning_rate: float
    kl_coefficient: float
    clip_norm: float
    seed: int
    schedule: LearningRateSchedule = "constant"
    warmup_steps: int = 0
    data: JobData | None = None
    optimizer: OptimizerStart = "keep"

    @property
    def is_sampled(self) -> bool:
        """Return whether a step samples answers, several to each prompt, and does not read them."""
        return self.group_size > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted(Event):
    """A user asked for a managed job and the request is durable."""

    type: ClassVar[str] = "job.submitted"
    version: ClassVar[int] = 3
    key: ClassVar[tuple[str, ...]] = ("job_id",)

    job_id: JobId
    policy_id: PolicyId
    lora: LoraSpec
    spec: JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished(Event):
    """A job ended.

    ``last_revision`` is None when no revision was published; ``reason`` says why it failed, or what
    to know of a success.
    """

    type: ClassVar[str] = "job.finished"
    key: ClassVar[tuple[str, ...]] = ("job_id",)

    job_id: JobId
    policy_id: PolicyId
    outcome: Literal["succeeded", "failed", "cancelled"]
    reason: str
    steps_done: int
    last_revision: Digest | None
