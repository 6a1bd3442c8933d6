"""Passes and steps that clients ask for, of several policies at once: any loss, sums over tokens.

Invariants: a pass adds its whole gradient to its policy's or nothing; what is wrong with one pass is that
pass's result, and the others' gradients are as if it had not been there; computed alone, a pass adds the same
bits whatever else there is (tests/unit/trainer/test_passes.py).
B = lines of a micro-batch, L = its longest line, T = its positions, K = targets of a position.
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from mint_common.training import Array, Datum, Pass, Passed, Step
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.states.training_state import TrainingState
from services.trainer.core.array_check import floats_of
from services.trainer.core.datum_lines import DatumLine
from services.trainer.core.losses.loss import SequenceInputs, TokenInputs
from services.trainer.core.losses.table import PASS_LOSSES
from services.trainer.core.losses.tokens import ratio_max_error
from services.trainer.core.microbatches import plan_microbatches
from services.trainer.core.refusals import NotFinite
from services.trainer.ports.policies import StepTaken

_LOGITS_BYTES = 256 * 1024 * 1024
_FLOAT_BYTES = 4
SPOILT_WEIGHT = "largest weight"
"""What a step is refused for when it has changed the weights already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassWork:
    """A pass and the policy that it is of. Passes of one policy have the same tensors."""

    lora: LoraTensors
    step: int
    work: Pass


@dataclass(frozen=True, slots=True, kw_only=True)
class _PassLine:
    """A line of a pass. ``number`` counts the passes of the batch."""

    number: int
    index: int
    line: DatumLine

    @property
    def policy(self) -> int:
        """Return whose it is."""
        return self.line.policy

    @property
    def length(self) -> int:
        """Return the number of tokens that the model reads."""
        return self.line.length

    @property
    def targets(self) -> int:
        """Return the number of positions that the loss falls on."""
        return self.line.targets


@dataclass(slots=True, kw_only=True)
class _Sum:
    """What a pass has come to over the micro-batches."""

    work: PassWork
    logprobs: list[Array | None]
    loss: float = 0.0
    ratio_error: float = 0.0
    refusal: NotFinite | None = None
    losses: list[Tensor] = field(default_factory=list)

    def check(self, what: str, value: float) -> bool:
        """Refuse the pass when a number of it is not finite."""
        if not math.isfinite(value):
            step = self.work.step
            self.refusal = NotFinite(what=what, step=step + 1, value=value, kept=step)
        return self.refusal is None


def run_passes(base: ScoringBase, works: Sequence[PassWork], *, max_tokens: int) -> list[Passed | NotFinite]:
    """Compute passes, add gradients, and return the result of each. Passes of one policy are neighbours."""
    leaves = {id(work.lora): work.lora.leaf for work in works if work.work.backward}
    held = {key: leaf.grad for key, leaf in leaves.items()}
    for leaf in leaves.values():
        leaf.grad = None
    sums = _compute(base, works, max_tokens=max_tokens)
    spoilt: set[int] = set()
    for key, leaf in leaves.items():
        own = [one for one in sums if id(one.work.lora) == key]
        if leaf.grad is not None and not bool(leaf.grad.isfinite().all()):
            own[-1].check("gradient", math.nan)
        if any(one.refusal for one in own):
            spoilt.add(key)
            leaf.grad = held[key]
        else:
            leaf.grad = _added(held[key], leaf.grad)
    return [
        _alone(base, one, max_tokens) if id(one.work.lora) in spoilt and len(works) > 1 else _result(one)
        for one in sums
    ]


def _added(before: Tensor | None, more: Tensor | None) -> Tensor | None:
    return before if more is None else more if before is None else before + more


def _alone(base: ScoringBase, spoilt: _Sum, max_tokens: int) -> Passed | NotFinite:
    """Compute a pass again whose neighbours of the same policy may have spoilt its gradient."""
    if not spoilt.work.work.backward:
        return _result(spoilt)
    (result,) = run_passes(base, [spoilt.work], max_tokens=max_tokens)
    return result


def _compute(base: ScoringBase, works: Sequence[PassWork], *, max_tokens: int) -> list[_Sum]:
    sums = [_Sum(work=work, logprobs=[None] * len(work.work.data)) for work in works]
    policies: dict[int, int] = {}
    lines = [
        _PassLine(
            number=number,
            index=index,
            line=DatumLine(policy=policies.setdefault(id(work.lora), len(policies)), datum=datum),
        )
        for number, work in enumerate(works)
        for index, datum in enumerate(work.work.data)
    ]
    max_targets = max(1, _LOGITS_BYTES // (_FLOAT_BYTES * base.facts.vocab_size))
    for backward in (True, False):
        chosen = [line for line in lines if works[line.number].work.backward is backward]
        for batch in plan_microbatches(chosen, max_tokens=max_tokens, max_targets=max_targets):
            ordered = sorted(batch, key=lambda line: (line.policy, line.number, line.index))
            with torch.set_grad_enabled(backward):
                _microbatch(base, sums, ordered, backward=backward)
    return sums


def _microbatch(
    base: ScoringBase, sums: Sequence[_Sum], lines: Sequence[_PassLine], *, backward: bool
) -> None:
    loras = {line.policy: sums[line.number].work.lora for line in lines}
    logprobs = base.logprobs([line.line for line in lines], loras)
    losses = []
    begin = 0
    for number, group in groupby(lines, lambda line: line.number):
        own = list(group)
        end = begin + sum(line.length for line in own)
        loss = _pass_loss(sums[number], own, logprobs[begin:end])
        begin = end
        if loss is not None:
            losses.append(loss)
    # One policy's infinity times another's zero would be NaN: what is not finite stays out of the sum.
    if backward and losses:
        (losses[0] if len(losses) == 1 else torch.stack(losses).sum()).backward()


def _pass_loss(total: _Sum, lines: Sequence[_PassLine], logprobs: Tensor) -> Tensor | None:
    """Note the log-probabilities of a pass's lines and return their loss, None if it is not finite."""
    if logprobs.dim() == 1 or {line.line.width for line in lines} == {logprobs.shape[1]}:
        flat_T = logprobs.reshape(-1)
    else:
        parts = logprobs.split([line.length for line in lines])
        flat_T = torch.cat(
            [part[:, : line.line.width or 1].reshape(-1) for part, line in zip(parts, lines, strict=True)]
        )
    values = flat_T.detach().numpy()
    begin = 0
    for line in lines:
        shape = line.line.datum.inputs["target_tokens"].shape
        end = begin + math.prod(shape)
        total.logprobs[line.index] = Array(dtype="float32", shape=shape, data=values[begin:end].tobytes())
        begin = end
    loss = _loss(total, lines, flat_T)
    value = float(loss.detach())
    total.loss += value
    return loss if total.check("loss", value) else None


def _loss(total: _Sum, lines: Sequence[_PassLine], logprobs_T: Tensor) -> Tensor:
    work = total.work.work
    loss = PASS_LOSSES[work.loss]
    sequences = [_sequence(line.line.datum) for line in lines]
    tokens = TokenInputs(logprobs_T=logprobs_T, sequences=sequences, config=work.config)
    if "logprobs" in loss.needed:
        error = ratio_max_error(logprobs_T.detach(), tokens.needed("logprobs"))
        total.ratio_error = max(total.ratio_error, error)
    return loss.formula(tokens)


def _sequence(datum: Datum) -> SequenceInputs:
    arrays = {name: floats_of(array) for name, array in datum.inputs.items() if name != "target_tokens"}
    return SequenceInputs(targets=math.prod(datum.inputs["target_tokens"].shape), arrays=arrays)


def _result(total: _Sum) -> Passed | NotFinite:
    if total.refusal:
        return total.refusal
    arrays = [array for array in total.logprobs if array is not None]
    metrics = {
        "loss:sum": total.loss,
        "tokens:sum": float(sum(math.prod(array.shape) for array in arrays)),
    }
    if "logprobs" in PASS_LOSSES[total.work.work.loss].needed:
        metrics["ratio_error:max"] = total.ratio_error
    return Passed(logprobs=tuple(arrays), metrics=metrics)


def take_step(state: TrainingState, step: Step) -> StepTaken | NotFinite:
    """Take an AdamW step on the accumulated gradient (none: zeros), and clear it.

    Loshchilov & Hutter 2019 (arXiv 1711.05101). When refused for the gradient's norm, the weights are as
    before; when refused for a weight, the state is spoilt.
    """
    leaf = state.lora.leaf
    if leaf.grad is None:
        leaf.grad = torch.zeros_like(leaf)
    norm = float(torch.nn.utils.clip_grad_norm_([leaf], step.clip_norm or math.inf))
    if not math.isfinite(norm):
        leaf.grad = None
        return NotFinite(what="gradient norm", step=state.step + 1, value=norm, kept=state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = step.learning_rate
        group["betas"] = (step.beta1, step.beta2)
        group["eps"] = step.eps
        group["weight_decay"] = step.weight_decay
    state.optimizer.step()
    leaf.grad = None
    largest = float(leaf.detach().abs().max())
    if not math.isfinite(largest):
        return NotFinite(what=SPOILT_WEIGHT, step=state.step + 1, value=largest, kept=state.step)
    state.step += 1
    return StepTaken(
        step=state.step, metrics={"grad_norm:mean": norm, "learning_rate:mean": step.learning_rate}
    )
