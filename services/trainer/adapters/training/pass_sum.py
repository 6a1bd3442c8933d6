"""A pass: its inputs, and its sums over the micro-batches.

T = target positions of a micro-batch, K = targets of a position.
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.scoring import TokenScores
from services.trainer.core.lines import Line, LineTokens
from services.trainer.core.losses.loss import Config, SequenceInputs, TokenInputs, TokenLoss
from services.trainer.core.losses.tokens import RatioSums, ratio_max_error
from services.trainer.core.microbatches import Cuttable
from services.trainer.core.refusals import NotFinite

Floats = npt.NDArray[np.float32]


class PassLine(Cuttable, Line, Protocol):
    """A line, and what losses read of its sequences."""

    @property
    def width(self) -> int:
        """Return the targets of a position, 0 for one without a dimension of its own."""
        ...

    def sequences(self) -> Sequence[SequenceInputs]:
        """Return the inputs of the line's sequences, in the order of its targets."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PassWork:
    """A pass over one policy at a step. Passes of one policy have the same tensors.

    Without a loss, the lines are scored only. ``is_sampled``: the sampler's log-probabilities are compared
    with the policy's. The gradient and the mean measures are divided by ``divisor``. ``reads_base``: the base
    scores the lines too. ``counts_hits``: of the tokens with a positive advantage, those are counted that the
    policy finds the likeliest.
    """

    lora: LoraTensors
    step: int
    lines: Sequence[PassLine]
    loss: TokenLoss | None
    config: Config = field(default_factory=dict)
    divisor: float = 1.0
    backward: bool = True
    reads_base: bool = False
    is_sampled: bool = False
    counts_hits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LineScores:
    """Scores of one line: log-probabilities of its targets, flat, and the base's if requested."""

    logprobs: Floats
    base: Floats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """The result of a pass. ``measures`` are named ``name:reduction``, ``scores`` are those of its lines.

    ``ratios`` are those of sampled answers; none otherwise.
    """

    loss: float
    measures: dict[str, float]
    scores: list[LineScores]
    ratios: RatioSums = field(default_factory=RatioSums)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedLine:
    """A line of a batch of passes: ``number`` counts these, ``index`` the lines of each."""

    policy: int
    number: int
    index: int
    line: PassLine
    counts_hits: bool = False

    @property
    def length(self) -> int:
        """Return the number of tokens that the model reads."""
        return self.line.length

    @property
    def targets(self) -> int:
        """Return the number of positions that the loss falls on."""
        return self.line.targets

    def read(self) -> LineTokens:
        """Return the line as numbers."""
        return replace(self.line.read(), policy=self.policy, counts_hits=self.counts_hits)


class PassSum:
    """Sums of a pass over the micro-batches, and the reason to refuse it, if any."""

    def __init__(self, work: PassWork) -> None:
        self.work = work
        self.refusal: NotFinite | None = None
        self._loss = 0.0
        self._scores: list[LineScores | None] = [None] * len(work.lines)
        self._measures = {"ratio_error:max": 0.0} if work.is_sampled else {}
        self._ratios = RatioSums()
        if work.loss is not None:
            self._measure(work.loss.measures(_no_tokens(work.config)))

    def saved(self) -> Callable[[], None]:
        """Return what restores the present sums. Scores are written again with their lines."""
        state = self.refusal, self._loss, dict(self._measures), self._ratios

        def restore() -> None:
            self.refusal, self._loss, measures, self._ratios = state
            self._measures = dict(measures)

        return restore

    def add(self, lines: Sequence[NumberedLine], scored: TokenScores, base_T: Tensor | None) -> Tensor | None:
        """Note the scores of some lines and return their loss, None if it is none or not finite."""
        logprobs_T = _flat(lines, scored.logprobs_T)
        base_T = None if base_T is None else _flat(lines, base_T)
        self._note(lines, logprobs_T.detach().cpu(), None if base_T is None else base_T.cpu())
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
            sampled_T = tokens.needed("logprobs")
            self._measure({"ratio_error:max": ratio_max_error(logprobs_T.detach(), sampled_T)})
            self._ratios = self._ratios.added(logprobs_T.detach(), sampled_T)
        if self.work.counts_hits and scored.hit_T is not None:
            judged_T = tokens.needed("advantages") > 0
            self._measure({"hits:sum": float((scored.hit_T * judged_T).sum())})
            self._measure({"judged:sum": float(judged_T.sum())})
        return None if self.work.loss is None else self._add_loss(self.work.loss, tokens)

    def _add_loss(self, loss: TokenLoss, tokens: TokenInputs) -> Tensor | None:
        self._measure(loss.measures(tokens))
        total = loss.formula(tokens) / self.work.divisor
        value = float(total.detach())
        self._loss += value
        return total if self.check("loss", value) else None

    def _note(self, lines: Sequence[NumberedLine], logprobs_T: Tensor, base_T: Tensor | None) -> None:
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
        """Return the result of the pass."""
        scores = [one for one in self._scores if one is not None]
        return self.refusal or PassResult(
            loss=self._loss, measures=self._measures, scores=scores, ratios=self._ratios
        )


def _flat(lines: Sequence[NumberedLine], values: Tensor) -> Tensor:
    """Return one number for each target of the lines ``[T]``, given ``[T]`` or, filled up, ``[T, K]``."""
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
