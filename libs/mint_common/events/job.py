"""Managed jobs: a bounded run of waves that trains one policy."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from mint_common.events.event import Event
from mint_common.events.job_data import JobData, LearningRateSchedule
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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What a managed job does, complete: no service fills in a default later.

    ``prompts_per_step`` x ``group_size`` samples make one wave; SFT uses the task's reference answers
    instead of samples and a ``group_size`` of 1. ``kl_coefficient`` is the pull to the base: the weight of
    GRPO's KL term (0 is off), DPO's and KTO's beta. ``clip_norm`` bounds the global gradient norm; 0 is off.
    With ``data`` the rows come from a file instead of a task, whose name is empty then: ``prompts_per_step``
    rows a step, and nothing is sampled unless the algorithm is ``grpo``. The learning rate rises linearly
    over ``warmup_steps``, then follows ``schedule``.
    """

    algorithm: Literal["grpo", "sft", "dpo", "kto"]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted(Event):
    """A user asked for a managed job and the request is durable."""

    type: ClassVar[str] = "job.submitted"
    version: ClassVar[int] = 2
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
