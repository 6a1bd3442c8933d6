"""Optimizer steps of several policies at once: forward and backward by micro-batches, clip, AdamW.

Invariants: a policy's gradient comes of its own rows only; what is wrong with one policy is that policy's
result, and the others' steps are as if it had not been there (tests/unit/trainer/test_batched_steps.py).
T = target tokens of a micro-batch.
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.states.training_state import TrainingState
from services.trainer.adapters.training.optimizer import clip_gradients, step_optimizers
from services.trainer.adapters.training.preferences import Preferences
from services.trainer.core.algorithms import ALGORITHMS, TrainingAlgorithm
from services.trainer.core.batch import Batch, Row
from services.trainer.core.losses.loss import Config, PairLoss, SequenceInputs, TokenInputs, TokenLoss
from services.trainer.core.losses.tokens import ratio_max_error
from services.trainer.core.microbatches import plan_microbatches
from services.trainer.core.packing import PackedSequence, pack_rows
from services.trainer.core.refusals import NotFinite
from services.trainer.ports.policies import StepSettings

_LOGITS_BYTES = 256 * 1024 * 1024
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A policy to step, on what, and how."""

    state: TrainingState
    batch: Batch
    settings: StepSettings


def step_policies(
    base: ScoringBase, works: Sequence[Work], *, max_tokens: int
) -> list[dict[str, float] | NotFinite]:
    """Step each state in place and return its metrics, or why its step is refused and the state spoilt.

    A batch without rows changes nothing. ``kl`` is there only if the loss has that term, ``ratio_max_error``
    only where a sampler answered, the routes' metrics only where it recorded them, ``distrusted_tokens`` only
    with a band.
    """
    steps = [_Step(work=work) for work in works]
    max_targets = max(1, _LOGITS_BYTES // (_FLOAT_BYTES * base.facts.vocab_size))

    def cut(rows_of: Sequence[Sequence[Row]]) -> Sequence[Sequence[PackedSequence]]:
        lines = [
            line
            for number, rows in enumerate(rows_of)
            for line in pack_rows(rows, policy=number, max_length=max_tokens if base.shares_prompts else 0)
        ]
        return plan_microbatches(lines, max_tokens=max_tokens, max_targets=max_targets)

    for lines in cut([work.batch.probe for work in works]):
        _compare(base, steps, lines)
    for lines in cut([step.pair_rows for step in steps]):
        _prefer(base, steps, lines)
    for step in steps:
        step.weigh_pairs()
    for lines in cut([work.batch.rows for work in works]):
        _accumulate(base, steps, lines)
    _apply([step for step in steps if step.work.batch.rows and not step.refusal])
    return [step.finish() for step in steps]


def _compare(base: ScoringBase, steps: Sequence["_Step"], lines: Sequence[PackedSequence]) -> None:
    """Only measure how far policies are from their samplers."""
    with torch.no_grad():
        logprobs_T = base.logprobs(lines, [step.work.state.lora for step in steps])
    for number, rows, own_T in _by_policy(lines, logprobs_T):
        steps[number].note_ratio(own_T, _sampled(rows))


def _prefer(base: ScoringBase, steps: Sequence["_Step"], lines: Sequence[PackedSequence]) -> None:
    """Measure how far policies have moved from the base on the answers of their pairs."""
    with torch.no_grad():
        logprobs_T = base.logprobs(lines, [step.work.state.lora for step in steps])
        base_T = base.logprobs(lines)
    for number, rows, own_T, span in _spans(lines, logprobs_T):
        steps[number].note_pairs(rows, own_T, base_T[span])


def _accumulate(base: ScoringBase, steps: Sequence["_Step"], lines: Sequence[PackedSequence]) -> None:
    """Add one micro-batch's gradients to those of its policies.

    The lines of a refused policy stay where they are: a batch of another shape would round the others'
    numbers otherwise.
    """
    if all(steps[line.policy].refusal for line in lines):
        return
    scored = base.score(lines, [step.work.state.lora for step in steps])
    base_T = None
    if any(steps[line.policy].reads_base for line in lines):
        with torch.no_grad():
            base_T = base.logprobs(lines)
    losses = []
    for number, rows, own_T, span in _spans(lines, scored.logprobs_T):
        routed_T = None
        if scored.routed_T is not None and scored.off_route_T is not None:
            routed_T = scored.routed_T[span]
            steps[number].note_routes(routed_T, scored.off_route_T[span])
        losses.append(steps[number].loss_of(own_T, rows, None if base_T is None else base_T[span], routed_T))
    # One policy's infinity times another's zero would be NaN: what is not finite stays out of the sum.
    finite = [loss for loss in losses if loss is not None]
    if finite:
        torch.stack(finite).sum().backward()


def _apply(steps: Sequence["_Step"]) -> None:
    """Clip and step those whose gradients are finite."""
    norms = clip_gradients(
        [step.work.state for step in steps], [step.work.settings.clip_norm for step in steps]
    )
    for step, norm in zip(steps, norms, strict=True):
        step.grad_norm = norm
        step.check("gradient norm", norm)
    sound = [step for step in steps if not step.refusal]
    largest = step_optimizers(
        [step.work.state for step in sound], [step.work.settings.learning_rate for step in sound]
    )
    for step, weight in zip(sound, largest, strict=True):
        step.check("largest weight", weight)
        step.work.state.step += 1


def _by_policy(lines: Sequence[PackedSequence], logprobs_T: Tensor) -> list[tuple[int, list[Row], Tensor]]:
    return [(number, rows, own_T) for number, rows, own_T, _ in _spans(lines, logprobs_T)]


def _spans(lines: Sequence[PackedSequence], logprobs_T: Tensor) -> list[tuple[int, list[Row], Tensor, slice]]:
    """Return for each policy its number, its rows, and which log-probabilities are theirs."""
    rows_of: dict[int, list[Row]] = {}
    for line in lines:
        rows_of.setdefault(line.policy, []).extend(line.rows)
    sizes = [sum(len(row.tokens) for row in rows) for rows in rows_of.values()]
    spans, begin = [], 0
    for (number, rows), own_T in zip(rows_of.items(), logprobs_T.split(sizes), strict=True):
        spans.append((number, rows, own_T, slice(begin, begin + len(own_T))))
        begin += len(own_T)
    return spans


@dataclass(slots=True, kw_only=True)
class _Step:
    """A step under way: what it has summed up over its micro-batches, and why it is refused, if it is."""

    work: Work
    loss: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)
    grad_norm: float = 0.0
    ratio_error: float = 0.0
    refusal: NotFinite | None = None
    routed: float = 0.0
    unrouted: float = 0.0
    off_route: float = 0.0
    preferences: Preferences | None = None
    preferred: dict[str, float] = field(default_factory=dict)

    @property
    def algorithm(self) -> TrainingAlgorithm:
        """Return what the step follows."""
        return ALGORITHMS[self.work.settings.algorithm]

    @property
    def config(self) -> Config:
        """Return the numbers of the loss."""
        return self.algorithm.config(self.work.settings.kl_coefficient, self.work.settings.mismatch)

    @property
    def reads_base(self) -> bool:
        """Return whether the loss of a micro-batch reads the base's log-probabilities."""
        loss = self.algorithm.loss
        return isinstance(loss, TokenLoss) and loss.reads_base(self.config)

    @property
    def pair_rows(self) -> Sequence[Row]:
        """Return the rows that are halves of pairs."""
        return self.work.batch.rows if isinstance(self.algorithm.loss, PairLoss) else ()

    def note_pairs(self, rows: Sequence[Row], logprobs_T: Tensor, base_T: Tensor) -> None:
        """Remember how far the policy has moved on some rows."""
        if self.preferences is None:
            loss = self.algorithm.loss
            assert isinstance(loss, PairLoss), loss
            self.preferences = Preferences(loss, self.config, pairs=len(self.work.batch.rows) // 2)
        self.preferences.note(rows, logprobs_T, base_T)
        self.note_ratio(logprobs_T, _sampled(rows))

    def weigh_pairs(self) -> None:
        """Compute the loss of the pairs, when every row is noted."""
        if self.preferences is not None:
            self.preferred = self.preferences.weigh()
            self.loss = self.preferred["loss"]
            self.check("loss", self.loss)

    def loss_of(
        self, logprobs_T: Tensor, rows: Sequence[Row], base_T: Tensor | None, routed_T: Tensor | None
    ) -> Tensor | None:
        """Return the loss of some rows, None if it is not finite."""
        if self.preferences is not None:
            surrogate = self.preferences.surrogate(rows, logprobs_T)
            return surrogate if self.check("loss", float(surrogate.detach())) else None
        loss = self._token_loss(logprobs_T, rows, base_T, routed_T) / float(self.work.batch.total_tokens)
        value = float(loss.detach())
        self.loss += value
        return loss if self.check("loss", value) else None

    def finish(self) -> dict[str, float] | NotFinite:
        """Return the metrics, or why there are none."""
        batch, settings = self.work.batch, self.work.settings
        if self.refusal:
            return self.refusal
        metrics = {
            "loss": self.loss,
            "grad_norm": self.grad_norm,
            "learning_rate": settings.learning_rate,
            "reward_mean": batch.reward_mean,
            "skipped_groups": float(batch.skipped_groups),
            "tokens": float(batch.total_tokens),
            "trained_tokens": float(sum(len(row.tokens) for row in batch.rows)),
            **self.preferred,
        }
        if self.algorithm.is_sampled:
            metrics["ratio_max_error"] = self.ratio_error
        if isinstance(self.algorithm.loss, TokenLoss):
            self._measure(self.algorithm.loss, _no_tokens(self.config))
        metrics.update(self.measures)
        if self.routed or self.unrouted:
            metrics["out_of_route_ratio"] = self.off_route / max(1.0, self.routed)
            metrics["unrouted_tokens"] = self.unrouted
        return metrics

    def note_ratio(self, logprobs_T: Tensor, sampled_T: Tensor) -> None:
        """Remember the largest disagreement with the sampler."""
        self.ratio_error = max(self.ratio_error, ratio_max_error(logprobs_T, sampled_T))

    def note_routes(self, routed_T: Tensor, off_route_T: Tensor) -> None:
        """Add up how many tokens have a usable route, and how far it is from the own one."""
        self.routed += float(routed_T.sum())
        self.unrouted += float((1 - routed_T).sum())
        self.off_route += float((off_route_T * routed_T).sum())

    def _token_loss(
        self, logprobs_T: Tensor, rows: Sequence[Row], base_T: Tensor | None, routed_T: Tensor | None
    ) -> Tensor:
        loss = self.algorithm.loss
        assert isinstance(loss, TokenLoss), loss
        tokens = TokenInputs(
            logprobs_T=logprobs_T,
            sequences=[_sequence(row) for row in rows],
            config=self.config,
            base_T=base_T,
            routed_T=routed_T,
        )
        if self.algorithm.is_sampled:
            self.note_ratio(logprobs_T.detach(), tokens.needed("logprobs"))
        self._measure(loss, tokens)
        return loss.formula(tokens)

    def _measure(self, loss: TokenLoss, tokens: TokenInputs) -> None:
        for measure, value in loss.measures(tokens).items():
            name, _, reduction = measure.partition(":")
            part = value / self.work.batch.total_tokens if reduction == "mean" else value
            self.measures[name] = self.measures.get(name, 0.0) + part

    def check(self, what: str, value: float) -> bool:
        """Refuse the step when a number of it is not finite."""
        if not math.isfinite(value):
            kept = self.work.state.step
            self.refusal = NotFinite(what=what, step=kept + 1, value=value, kept=kept)
        return self.refusal is None


def _sequence(row: Row) -> SequenceInputs:
    arrays = {
        "logprobs": np.array(row.logprobs, np.float32),
        "advantages": np.full(len(row.tokens), row.advantage, np.float32),
    }
    return SequenceInputs(targets=len(row.tokens), arrays=arrays)


def _no_tokens(config: Config) -> TokenInputs:
    nothing_T = torch.zeros(0)
    return TokenInputs(logprobs_T=nothing_T, sequences=(), config=config, base_T=nothing_T)


def _sampled(rows: Sequence[Row]) -> Tensor:
    return torch.tensor([logprob for row in rows for logprob in row.logprobs])
