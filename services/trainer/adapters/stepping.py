"""One optimizer step of one policy: forward and backward by micro-batches, clip, AdamW.

T = completion tokens of a micro-batch.
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.trainer.adapters.resident_base import ResidentBase
from services.trainer.adapters.training_state import TrainingState
from services.trainer.core.batch import Batch, Row
from services.trainer.core.losses import cross_entropy, kl_to_base, policy_gradient, ratio_max_error
from services.trainer.core.microbatches import plan_microbatches
from services.trainer.core.refusals import NotFinite
from services.trainer.ports import StepSettings

_LOGITS_BYTES = 256 * 1024 * 1024
_FLOAT_BYTES = 4


def step_policy(
    base: ResidentBase, state: TrainingState, batch: Batch, settings: StepSettings, *, max_tokens: int
) -> dict[str, float]:
    """Step the state in place and return the metrics; a batch without rows changes nothing.

    ``kl`` is there only if the loss has that term, ``ratio_max_error`` only for GRPO. Raises NotFinite, with
    the state spoilt.
    """
    step = _Step(base=base, state=state, settings=settings, normaliser=float(batch.total_tokens))
    max_targets = max(1, _LOGITS_BYTES // (_FLOAT_BYTES * base.facts.vocab_size))

    def cut(rows: Sequence[Row]) -> Iterable[Sequence[Row]]:
        return plan_microbatches(rows, max_tokens=max_tokens, max_targets=max_targets)

    for rows in cut(batch.probe):
        step.compare(rows)
    for rows in cut(batch.rows):
        step.accumulate(rows)
    grad_norm = step.apply() if batch.rows else 0.0
    metrics = {
        "loss": step.loss,
        "grad_norm": grad_norm,
        "learning_rate": settings.learning_rate,
        "reward_mean": batch.reward_mean,
        "skipped_groups": float(batch.skipped_groups),
        "tokens": float(batch.total_tokens),
        "trained_tokens": float(sum(len(row.tokens) for row in batch.rows)),
    }
    if settings.algorithm == "grpo":
        metrics["ratio_max_error"] = step.ratio_error
        if settings.kl_coefficient:
            metrics["kl"] = step.kl
    return metrics


@dataclass(slots=True, kw_only=True)
class _Step:
    """A step under way: what it has summed up over its micro-batches."""

    base: ResidentBase
    state: TrainingState
    settings: StepSettings
    normaliser: float
    loss: float = 0.0
    kl: float = 0.0
    ratio_error: float = 0.0

    def compare(self, rows: Sequence[Row]) -> None:
        """Only measure how far the policy is from the sampler."""
        with torch.no_grad(), self.base.applied(self.state.lora):
            self._note_ratio(self.base.logprobs(rows), _sampled(rows))

    def accumulate(self, rows: Sequence[Row]) -> None:
        """Add one micro-batch's gradient to the policy's."""
        with self.base.applied(self.state.lora):
            logprobs_T = self.base.logprobs(rows)
        loss = self._sft(logprobs_T) if self.settings.algorithm == "sft" else self._grpo(logprobs_T, rows)
        value = float(loss.detach())
        self._require_finite("loss", value)
        self.loss += value
        loss.backward()

    def apply(self) -> float:
        """Clip, step, clear the gradients; return the gradient's norm before the clip."""
        parameters = self.state.lora.parameters()
        limit = self.settings.clip_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        self._require_finite("gradient norm", norm)
        for group in self.state.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()
        self._require_finite("largest weight", max(float(leaf.detach().abs().max()) for leaf in parameters))
        self.state.step += 1
        return norm

    def _sft(self, logprobs_T: Tensor) -> Tensor:
        return cross_entropy(logprobs_T, normaliser=self.normaliser)

    def _grpo(self, logprobs_T: Tensor, rows: Sequence[Row]) -> Tensor:
        sampled_T = _sampled(rows)
        advantages_T = torch.tensor([row.advantage for row in rows for _ in row.tokens])
        self._note_ratio(logprobs_T.detach(), sampled_T)
        loss = policy_gradient(logprobs_T, sampled_T, advantages_T, normaliser=self.normaliser)
        if not self.settings.kl_coefficient:
            return loss
        with torch.no_grad():
            base_T = self.base.logprobs(rows)
        kl = kl_to_base(logprobs_T, base_T, normaliser=self.normaliser)
        self.kl += float(kl.detach())
        return loss + self.settings.kl_coefficient * kl

    def _note_ratio(self, logprobs_T: Tensor, sampled_T: Tensor) -> None:
        self.ratio_error = max(self.ratio_error, ratio_max_error(logprobs_T, sampled_T))

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise NotFinite(what=what, step=self.state.step + 1, value=value, kept=self.state.step)


def _sampled(rows: Sequence[Row]) -> Tensor:
    return torch.tensor([logprob for row in rows for logprob in row.logprobs])
