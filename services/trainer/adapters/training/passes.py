"""Forward and backward passes of several policies at once: any token loss, sums over micro-batches.

Invariants: a pass adds its whole gradient to its policy's or nothing; what is wrong with one pass is that
pass's result, and the others' gradients are as if it had not been there; computed alone, a pass adds the same
bits whatever else there is (tests/unit/trainer/test_passes.py, test_batched_steps.py).
T = target positions of a micro-batch, K = targets of a position.
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.scoring import ScoringBase, TokenScores
from services.trainer.core.lines import LineTokens
from services.trainer.core.losses.loss import Config, SequenceInputs, TokenInputs, TokenLoss
from services.trainer.core.losses.tokens import ratio_max_error
from services.trainer.core.microbatches import plan_microbatches
from services.trainer.core.refusals import NotFinite

_LOGITS_BYTES = 256 * 1024 * 1024
_FLOAT_BYTES = 4
Floats = npt.NDArray[np.float32]


class PassLine(Protocol):
    """A line, and what losses read of its sequences."""

    @property
    def length(self) -> int:
        """Return the number of tokens that the model reads."""
        ...

    @property
    def targets(self) -> int:
        """Return the number of positions that the loss falls on."""
        ...

    @property
    def width(self) -> int:
        """Return the targets of a position, 0 for one without a dimension of its own."""
        ...

    def read(self) -> LineTokens:
        """Return the line as numbers."""
        ...

    def sequences(self) -> Sequence[SequenceInputs]:
        """Return the inputs of the line's sequences, in the order of its targets."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PassWork:
    """A pass over one policy at a step. Passes of one policy have the same tensors.

    Without a loss, the lines are scored and compared with their sampler only. The gradient and the mean
    measures are divided by ``divisor``. ``reads_base``: the base scores the lines too.
    """

    lora: LoraTensors
    step: int
    lines: Sequence[PassLine]
    loss: TokenLoss | None
    config: Config = field(default_factory=dict)
    divisor: float = 1.0
    backward: bool = True
    reads_base: bool = False

    @property
    def is_sampled(self) -> bool:
        """Return whether the sampler's log-probabilities are compared with the policy's."""
        return self.loss is None or "logprobs" in self.loss.needed


@dataclass(frozen=True, slots=True, kw_only=True)
class LineScores:
    """What one line came to: log-probabilities of its targets, flat, and the base's where it was asked."""

    logprobs: Floats
    base: Floats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """What a pass came to. ``measures`` are named ``name:reduction``, ``scores`` are those of its lines."""

    loss: float
    measures: dict[str, float]
    scores: list[LineScores]


def run_passes(
    base: ScoringBase, works: Sequence[PassWork], *, max_tokens: int
) -> list[PassResult | NotFinite]:
    """Compute passes, add gradients, and return the result of each. Passes of one policy are neighbours."""
    leaves = {id(work.lora): work.lora.leaf for work in works if work.backward}
    held = {key: leaf.grad for key, leaf in leaves.items()}
    for leaf in leaves.values():
        leaf.grad = None
    sums = _compute(base, works, max_tokens=max_tokens)
    again: set[int] = set()
    for key, leaf in leaves.items():
        own = [one for one in sums if id(one.work.lora) == key]
        if leaf.grad is not None and not bool(leaf.grad.isfinite().all()):
            own[-1].check("gradient", math.nan)
        if any(one.refusal for one in own):
            leaf.grad = held[key]
            again |= {key} if len(own) > 1 else set()
        else:
            leaf.grad = _added(held[key], leaf.grad)
    return [_alone(base, one, max_tokens) if id(one.work.lora) in again else one.result() for one in sums]


def _added(before: Tensor | None, more: Tensor | None) -> Tensor | None:
    return before if more is None else more if before is None else before + more


def _alone(base: ScoringBase, spoilt: "_Sum", max_tokens: int) -> PassResult | NotFinite:
    """Compute a pass again whose neighbours of the same policy may have spoilt its gradient."""
    if not spoilt.work.backward:
        return spoilt.result()
    (result,) = run_passes(base, [spoilt.work], max_tokens=max_tokens)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _PassLine:
    """A line of a batch of passes: ``number`` counts these, ``index`` the lines of each."""

    policy: int
    number: int
    index: int
    line: PassLine

    @property
    def length(self) -> int:
        return self.line.length

    @property
    def targets(self) -> int:
        return self.line.targets

    @property
    def place(self) -> tuple[int, int, int]:
        return self.policy, self.number, self.index

    def read(self) -> LineTokens:
        return replace(self.line.read(), policy=self.policy)


def _compute(base: ScoringBase, works: Sequence[PassWork], *, max_tokens: int) -> list["_Sum"]:
    sums = [_Sum(work) for work in works]
    max_targets = max(1, _LOGITS_BYTES // (_FLOAT_BYTES * base.facts.vocab_size))
    lines = list(_numbered(works))
    for backward in (True, False):
        chosen = [line for line in lines if works[line.number].backward is backward]
        for batch in plan_microbatches(chosen, max_tokens=max_tokens, max_targets=max_targets):
            with torch.set_grad_enabled(backward):
                loss = _microbatch(base, sums, sorted(batch, key=lambda line: line.place))
            if backward and loss is not None:
                loss.backward()
    return sums


def _numbered(works: Sequence[PassWork]) -> Iterator[_PassLine]:
    policies: dict[int, int] = {}
    for number, work in enumerate(works):
        policy = policies.setdefault(id(work.lora), len(policies))
        for index, line in enumerate(work.lines):
            yield _PassLine(policy=policy, number=number, index=index, line=line)


def _microbatch(base: ScoringBase, sums: Sequence["_Sum"], lines: Sequence[_PassLine]) -> Tensor | None:
    """Return the loss of a micro-batch, None if there is none that is finite.

    The lines of a refused pass stay where they are: a batch of another shape would round the others' numbers
    otherwise.
    """
    if all(sums[line.number].refusal for line in lines):
        return None
    scored = base.score(lines, {line.policy: sums[line.number].work.lora for line in lines})
    base_T = None
    if any(sums[line.number].work.reads_base for line in lines):
        with torch.no_grad():
            base_T = base.logprobs(lines)
    losses, begin = [], 0
    for number, group in groupby(lines, lambda line: line.number):
        own = list(group)
        span = slice(begin, begin + sum(line.targets for line in own))
        losses.append(sums[number].add(own, _part(scored, span), None if base_T is None else base_T[span]))
        begin = span.stop
    # One policy's infinity times another's zero would be NaN: what is not finite stays out of the sum.
    finite = [loss for loss in losses if loss is not None]
    return torch.stack(finite).sum() if finite else None


def _part(scored: TokenScores, span: slice) -> TokenScores:
    routed_T, off_route_T = scored.routed_T, scored.off_route_T
    return TokenScores(
        logprobs_T=scored.logprobs_T[span],
        routed_T=None if routed_T is None else routed_T[span],
        off_route_T=None if off_route_T is None else off_route_T[span],
    )


class _Sum:
    """What a pass has come to over the micro-batches, and why it is refused, if it is."""

    def __init__(self, work: PassWork) -> None:
        self.work = work
        self.refusal: NotFinite | None = None
        self._loss = 0.0
        self._scores: list[LineScores | None] = [None] * len(work.lines)
        self._measures = {"ratio_error:max": 0.0} if work.is_sampled else {}
        if work.loss is not None:
            self._measure(work.loss.measures(_no_tokens(work.config)))

    def add(self, lines: Sequence[_PassLine], scored: TokenScores, base_T: Tensor | None) -> Tensor | None:
        """Note the scores of some lines and return their loss, None if it is none or not finite."""
        logprobs_T = _flat(lines, scored.logprobs_T)
        base_T = None if base_T is None else _flat(lines, base_T)
        self._note(lines, logprobs_T.detach(), base_T)
        if self.work.loss is not None:
            self._measure(_route_measures(scored))
        tokens = TokenInputs(
            logprobs_T=logprobs_T,
            sequences=[sequence for line in lines for sequence in line.line.sequences()],
            config=self.work.config,
            base_T=base_T,
            routed_T=scored.routed_T,
        )
        if self.work.is_sampled:
            error = ratio_max_error(logprobs_T.detach(), tokens.needed("logprobs"))
            self._measure({"ratio_error:max": error})
        return None if self.work.loss is None else self._add_loss(self.work.loss, tokens)

    def _add_loss(self, loss: TokenLoss, tokens: TokenInputs) -> Tensor | None:
        self._measure(loss.measures(tokens))
        total = loss.formula(tokens) / self.work.divisor
        value = float(total.detach())
        self._loss += value
        return total if self.check("loss", value) else None

    def _note(self, lines: Sequence[_PassLine], logprobs_T: Tensor, base_T: Tensor | None) -> None:
        begin = 0
        for line in lines:
            span = slice(begin, begin + line.targets * (line.line.width or 1))
            base = None if base_T is None else base_T[span].numpy()
            self._scores[line.index] = LineScores(logprobs=logprobs_T[span].numpy(), base=base)
            begin = span.stop

    def _measure(self, measures: dict[str, float]) -> None:
        for name, value in measures.items():
            before = self._measures.get(name, 0.0)
            reduction = name.rpartition(":")[2]
            part = value / self.work.divisor if reduction == "mean" else value
            self._measures[name] = max(before, part) if reduction == "max" else before + part

    def check(self, what: str, value: float) -> bool:
        """Refuse the pass for its first number that is not finite."""
        if self.refusal is None and not math.isfinite(value):
            step = self.work.step
            self.refusal = NotFinite(what=what, step=step + 1, value=value, kept=step)
        return self.refusal is None

    def result(self) -> PassResult | NotFinite:
        """Return what the pass came to."""
        scores = [one for one in self._scores if one is not None]
        return self.refusal or PassResult(loss=self._loss, measures=self._measures, scores=scores)


def _flat(lines: Iterable[_PassLine], values: Tensor) -> Tensor:
    """Return one number for each target of the lines ``[T]``, given ``[T]`` or, filled up, ``[T, K]``."""
    lines = list(lines)
    if values.dim() == 1 or {line.line.width for line in lines} == {values.shape[1]}:
        return values.reshape(-1)
    parts = values.split([line.targets for line in lines])
    return torch.cat(
        [part[:, : line.line.width or 1].reshape(-1) for part, line in zip(parts, lines, strict=True)]
    )


def _route_measures(scored: TokenScores) -> dict[str, float]:
    if scored.routed_T is None or scored.off_route_T is None:
        return {}
    return {
        "routed:sum": float(scored.routed_T.sum()),
        "unrouted:sum": float((1 - scored.routed_T).sum()),
        "off_route:sum": float((scored.off_route_T * scored.routed_T).sum()),
    }


def _no_tokens(config: Config) -> TokenInputs:
    nothing_T = torch.zeros(0)
    return TokenInputs(logprobs_T=nothing_T, sequences=(), config=config, base_T=nothing_T)
