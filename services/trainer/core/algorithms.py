"""What a managed job's algorithm trains on, by which loss, and with which of the loss's numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from mint_common.records import WaveRecord
from services.trainer.core.batch import (
    Batch,
    build_dpo_batch,
    build_grpo_batch,
    build_kto_batch,
    build_sft_batch,
)
from services.trainer.core.losses.cross_entropy import CROSS_ENTROPY
from services.trainer.core.losses.dpo import DPO
from services.trainer.core.losses.grpo import GRPO
from services.trainer.core.losses.kto import KTO
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
    """What a wave's pass computes: the rows of its record, by the loss of its algorithm.

    Without ``backward`` they are measured only. ``is_file``: they are a file's rows, of which nobody sampled
    the answers. Then the pass tells a mean token accuracy: of the trained tokens of the better answers, the
    share that the policy finds the likeliest.
    """

    algorithm: str
    config: Mapping[str, float]
    batch: Batch
    backward: bool = True
    is_file: bool = False

    @property
    def adds_gradient(self) -> bool:
        """Return whether the pass changes the policy's gradient."""
        return self.backward and bool(self.batch.rows)

    @property
    def is_sampled(self) -> bool:
        """Return whether a sampler's log-probabilities are compared with the policy's."""
        rows = (*self.batch.rows, *self.batch.probe)
        return ALGORITHMS[self.algorithm].sampled != "never" and all(row.logprobs for row in rows)

    @property
    def tokens(self) -> int:
        """Return how many tokens the model reads."""
        rows = self.batch.rows or self.batch.probe
        return sum(row.length for row in (*rows, *self.batch.mismatched))


VALIDATION_METRICS: Mapping[str, str] = {
    "loss:mean": "valid_loss:mean",
    "mean_token_accuracy:mean": "valid_mean_token_accuracy:mean",
    "preference_margin:mean": "valid_reward_margin:mean",
    "preference_accuracy:mean": "valid_reward_accuracy:mean",
}
"""Metrics of a pass that only measures, by the names that a training pass has for them."""


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
    "kto": TrainingAlgorithm(
        loss=KTO,
        build_batch=build_kto_batch,
        config=lambda kl, _mismatch: {"beta": kl},
        sampled="never",
    ),
}


def build_batch(algorithm: str, record: WaveRecord, *, pulls: bool = False) -> Batch:
    """Return what an algorithm trains on; ``pulls``: see `build_grpo_batch`."""
    if pulls and ALGORITHMS[algorithm].loss is GRPO:
        return build_grpo_batch(record, pulls=True)
    return ALGORITHMS[algorithm].build_batch(record)
