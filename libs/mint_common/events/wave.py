"""Waves: a bounded batch of rollouts at one fixed revision."""

from dataclasses import dataclass
from typing import ClassVar

from mint_common.claims import Claim, RevisionRef
from mint_common.events.event import Event
from mint_common.events.job import JobSpec, LoraSpec
from mint_common.ids import JobId, PolicyId, WaveId


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveEvent(Event):
    """A change of a job's wave."""

    key: ClassVar[tuple[str, ...]] = ("wave_id",)

    wave_id: WaveId
    job_id: JobId
    policy_id: PolicyId


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveRequested(WaveEvent):
    """Rollout shall sample these prompts at this revision, or at the base if ``revision`` is None.

    ``prompts`` claims a list of `mint_common.records.Prompt`; for a job on a file a list of
    `mint_common.datasets.RowLine`. ``step`` counts from 1 within the job.
    """

    type: ClassVar[str] = "wave.requested"
    version: ClassVar[int] = 4

    step: int
    revision: RevisionRef | None
    prompts: Claim
    lora: LoraSpec
    spec: JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveCompleted(WaveEvent):
    """The samples of a wave are scored and recorded; ``record`` claims a `mint_common.records.WaveRecord`.

    ``validation`` claims a record of the rows that measure the step after it is taken; None if it is not
    measured. Their loss and token accuracy become ``valid_loss`` and ``valid_mean_token_accuracy`` in the
    revision's metrics.
    """

    type: ClassVar[str] = "wave.completed"
    version: ClassVar[int] = 4

    step: int
    revision: RevisionRef | None
    record: Claim
    validation: Claim | None
    reward_mean: float
    lora: LoraSpec
    spec: JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveCompared(WaveEvent):
    """A trainer compared a wave's tokens with their sampler.

    ``logprobs`` claims a `mint_common.records.WaveLogprobs`: the policy's log-probabilities in the pass that
    first trained on each token. The event comes with the wave's ``revision.exported``; it is missing where
    nothing was sampled, and where the trainer restarted between the pass and the export.
    """

    type: ClassVar[str] = "wave.compared"

    logprobs: Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveCancelled(WaveEvent):
    """A wave will not be completed."""

    type: ClassVar[str] = "wave.cancelled"

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFailed(WaveEvent):
    """A wave could not be trained on, and repeating it would fail again."""

    type: ClassVar[str] = "training.failed"

    code: str
    reason: str
