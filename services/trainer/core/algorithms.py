"""What a managed job's algorithm trains on, by which loss, and with which of the loss's numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from mint_common.records import WaveRecord
from services.trainer.core.batch import Batch, build_dpo_batch, build_grpo_batch, build_sft_batch
from services.trainer.core.losses.cross_entropy import CROSS_ENTROPY
from services.trainer.core.losses.dpo import DPO
from services.trainer.core.losses.grpo import GRPO
from services.trainer.core.losses.loss import Loss
from services.trainer.core.mismatch_rules import BAND, TRUNCATED_AT, Mismatch


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingAlgorithm:
    """``config`` makes the loss's numbers of a job's ``kl_coefficient`` and the trainer's `Mismatch`.

    ``sampled`` says whether a record has its sampler's log-probabilities, to compare with the policy's:
    pairs may have been sampled, or come from a file.
    """

    loss: Loss
    build_batch: Callable[[WaveRecord], Batch]
    config: Callable[[float, Mismatch], dict[str, float]]
    sampled: Literal["always", "maybe", "never"]

    def needs_logprobs(self, record: WaveRecord) -> bool:
        """Return whether every sample of a record has to have log-probabilities."""
        has_some = any(sample.logprobs for group in record.groups for sample in group.samples)
        return self.sampled == "always" or (self.sampled == "maybe" and has_some)


def _grpo_config(kl_coefficient: float, mismatch: Mismatch) -> dict[str, float]:
    rules: dict[Mismatch, dict[str, float]] = {
        "none": {},
        "truncated": {"truncated_at": TRUNCATED_AT},
        "band": {"band_low": BAND[0], "band_high": BAND[1]},
    }
    return {"kl_coefficient": kl_coefficient, **rules[mismatch]}


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveBatch:
    """What a wave's pass computes: the rows of its record, by the loss of its algorithm."""

    algorithm: str
    config: Mapping[str, float]
    batch: Batch

    @property
    def is_sampled(self) -> bool:
        """Return whether a sampler's log-probabilities are compared with the policy's."""
        rows = (*self.batch.rows, *self.batch.probe)
        return ALGORITHMS[self.algorithm].sampled != "never" and all(row.logprobs for row in rows)

    @property
    def tokens(self) -> int:
        """Return how many tokens the model reads."""
        return sum(row.length for row in self.batch.rows or self.batch.probe)


ALGORITHMS: Mapping[str, TrainingAlgorithm] = {
    "grpo": TrainingAlgorithm(loss=GRPO, build_batch=build_grpo_batch, config=_grpo_config, sampled="always"),
    "sft": TrainingAlgorithm(
        loss=CROSS_ENTROPY,
        build_batch=build_sft_batch,
        config=lambda _kl, _mismatch: {},
        sampled="never",
    ),
    "dpo": TrainingAlgorithm(
        loss=DPO,
        build_batch=build_dpo_batch,
        config=lambda kl, _mismatch: {"beta": kl},
        sampled="maybe",
    ),
}


def build_batch(algorithm: str, record: WaveRecord) -> Batch:
    """Return what an algorithm trains on."""
    return ALGORITHMS[algorithm].build_batch(record)
