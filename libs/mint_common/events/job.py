"""Managed jobs: a bounded run of waves that trains one policy, over a task or over a tenant's own files."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mint_common.claims import Claim, RevisionRef
from mint_common.datasets.formats import Format
from mint_common.events.event import Event
from mint_common.events.policy_gradient import PolicyGradient
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
"""Whether a job continues with the policy's optimizer moments or starts with none."""

EvaluationMetric = Literal["valid_loss", "valid_mean_token_accuracy", "valid_reward_mean"]
"""Metric that compares a job's revisions; a smaller loss is better, and a larger value of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """A checked file that a job reads: ``content`` claims its bytes, which hold ``rows`` rows."""

    file_id: str
    filename: str
    content: Claim
    format: Format
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopping:
    """End the job after ``patience`` evaluations in a row that do not beat the best by ``min_delta``.

    The first ``warmup`` evaluations do not count.
    """

    patience: int
    min_delta: float
    warmup: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """Evaluate after every ``every`` steps and after the last one, on at most ``rows`` rows.

    The rows are those of ``file``, or a ``holdout`` share of the training file, selected by their hashes; of
    a job in an environment they are tasks of its ``split``, each with ``samples`` episodes. ``keep`` selects
    the job's result: the best revision by ``metric``, or the last.
    """

    every: int
    rows: int
    file: JobFile | None
    holdout: float
    metric: EvaluationMetric
    keep: Literal["best", "last"]
    early_stopping: EarlyStopping | None
    split: str = ""
    samples: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobData:
    """The files of a job that trains on rows instead of a task.

    ``epochs`` counts passes over the rows, each shuffled by the job's seed and the epoch. If all rows of a
    step are dropped, further rows replace them, and these are drawn again later. ``on_long`` refuses or drops
    rows longer than the base's context. ``grader`` is OpenAI's JSON of a grader, for jobs that sample
    answers.
    """

    training: JobFile
    epochs: int
    on_long: Literal["refuse", "drop"]
    grader: dict[str, Any] | None  # JSON
    evaluation: EvaluationPlan | None


EnvironmentKind = Literal["verifiers", "tinker", "openenv", "skyrl", "nemogym", "http", "session"]
"""The interface of an environment: a package's, a reward URL, or agents elsewhere that claim episodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """The environment of a job: ``id`` names one that `mint env add` installed, ``args`` are its own.

    Of kind session nothing is installed: ``id`` is a label, and agents get ``args`` with their episodes.

    An episode has at most ``max_turns`` model calls and ``episode_seconds``. A group with fewer than
    ``min_group`` episodes without an error is not trained on. ``evaluation`` measures the job's revisions.
    """

    kind: EnvironmentKind
    id: str
    args: dict[str, Any]  # JSON
    split: str
    max_turns: int
    episode_seconds: float
    min_group: int
    evaluation: EvaluationPlan | None = None

    @property
    def is_session(self) -> bool:
        """Return whether agents elsewhere run its episodes."""
        return self.kind == "session"


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicSampling:
    """Sample further prompts in place of those whose answers all had the same reward.

    A step has at most ``max_extra`` rounds of them, each of as many prompts as are to be replaced: at most
    ``max_extra`` x ``prompts_per_step``. DAPO, Yu et al. 2025 (arXiv 2503.14476), section 3.2.
    """

    max_extra: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """The model that a policy is distilled from, ``name`` as the job's request has it.

    It is a ``revision`` of the same base, of any policy of the tenant's; None: the base itself. A revision is
    kept while the job is open.
    """

    name: str
    revision: RevisionRef | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DifficultySampling:
    """Draw tasks of an environment less often whose episodes all had the same reward when they last ran.

    Such a task has the weight ``least``, from 0.05 to 1, every other one 1.
    """

    least: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """All settings of a managed job; no service adds defaults later.

    ``algorithm`` is a name of `mint_common.algorithms`. ``prompts_per_step`` x ``group_size`` samples make
    one wave; SFT uses the task's reference answers instead of samples and a ``group_size`` of 1.
    ``kl_coefficient`` is the weight of GRPO's KL to the base (0 is off), or an algorithm's beta.
    ``clip_norm`` limits the global gradient norm; 0 is off. With ``data`` the rows come from a file and
    ``task`` is empty: ``prompts_per_step`` rows per step, and only algorithms of ``rft`` rows sample answers.
    The learning rate rises linearly over ``warmup_steps``, then follows ``schedule``. ``optimizer`` keeps or
    resets the moments of the policy's earlier training. With an ``environment``, ``task`` is empty and a step
    runs ``group_size`` episodes of each of ``prompts_per_step`` of its tasks. A step trains on samples of a
    revision that is at most ``staleness`` steps older than the weights it changes; at 0 sampling and training
    alternate. ``gradient`` is the complete one of a policy-gradient algorithm, None for other algorithms; in
    jobs of earlier versions None is the algorithm's own. ``dynamic_sampling`` and ``difficulty``: see there;
    None is off. Jobs of algorithm ``opd`` have a ``teacher``.
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
    environment: EnvironmentSpec | None = None
    staleness: int = 0
    gradient: PolicyGradient | None = None
    dynamic_sampling: DynamicSampling | None = None
    difficulty: DifficultySampling | None = None
    teacher: Teacher | None = None

    @property
    def is_sampled(self) -> bool:
        """Return whether a step samples answers, several to each prompt, and does not read them."""
        return self.group_size > 1

    @property
    def evaluation(self) -> EvaluationPlan | None:
        """Return how the job's revisions are measured, if they are."""
        measured = self.data or self.environment
        return None if measured is None else measured.evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted(Event):
    """A user submitted a managed job, and the request is durable."""

    type: ClassVar[str] = "job.submitted"
    version: ClassVar[int] = 4
    key: ClassVar[tuple[str, ...]] = ("job_id",)

    job_id: JobId
    policy_id: PolicyId
    lora: LoraSpec
    spec: JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished(Event):
    """A job ended.

    ``last_revision`` is None if no revision was published; ``reason`` explains a failure, or a caveat of a
    success.
    """

    type: ClassVar[str] = "job.finished"
    key: ClassVar[tuple[str, ...]] = ("job_id",)

    job_id: JobId
    policy_id: PolicyId
    outcome: Literal["succeeded", "failed", "cancelled"]
    reason: str
    steps_done: int
    last_revision: Digest | None
