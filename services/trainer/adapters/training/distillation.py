"""Forward and backward of a policy towards a teacher over the same base.

Invariants: the whole gradient is added or nothing; the teacher changes nothing and keeps nothing.
B = lines of a micro-batch, L = its longest line, T = its target positions, V = vocabulary.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mint_common.training import Distill, Distilled, Lesson
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.core.array_check import floats_of
from services.trainer.core.losses.reverse_kl import REVERSE_KL
from services.trainer.core.microbatches import plan_microbatches
from services.trainer.core.refusals import NotFinite

_ROWS_BYTES = 64 * 1024 * 1024
"""Of one tensor of whole distributions; several are alive at a time."""
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _LessonLine:
    """A lesson behind the policy's prompt and behind the teacher's."""

    index: int
    student: np.ndarray
    teacher: np.ndarray
    weights: Tensor

    @property
    def length(self) -> int:
        """Return how much the longer of both reads."""
        return max(len(self.student), len(self.teacher))

    @property
    def targets(self) -> int:
        """Return the number of positions that the loss falls on."""
        return len(self.weights)

    @property
    def policy(self) -> int:
        """Return whose it is: there is one policy."""
        return 0


def run_distillation(
    base: ScoringBase,
    student: LoraTensors,
    teacher: LoraTensors,
    work: Distill,
    *,
    step: int,
    max_tokens: int,
) -> Distilled | NotFinite:
    """Add the gradient of the weighted sum of the reverse KL, and return the result of each lesson."""
    lines = [_line(index, lesson) for index, lesson in enumerate(work.data)]
    max_targets = max(1, _ROWS_BYTES // (_FLOAT_BYTES * base.facts.vocab_size))
    losses = [0.0] * len(lines)
    leaf = student.leaf
    held, leaf.grad = leaf.grad, None
    for batch in plan_microbatches(lines, max_tokens=max_tokens, max_targets=max_targets):
        with torch.no_grad():
            teacher_TV = _distributions(base, teacher, [line.teacher for line in batch], batch)
        student_TV = _distributions(base, student, [line.student for line in batch], batch)
        loss_T = REVERSE_KL.formula(student_TV, teacher_TV, {"temperature": work.temperature})
        loss_T = loss_T * torch.cat([line.weights for line in batch])
        loss_T.sum().backward()
        parts = loss_T.detach().split([line.targets for line in batch])
        for line, part in zip(batch, parts, strict=True):
            losses[line.index] = float(part.sum())
    refusal = _refusal(losses, leaf.grad, step)
    if refusal is not None:
        leaf.grad = held
        return refusal
    if held is not None and leaf.grad is not None:
        leaf.grad = held + leaf.grad
    return Distilled(losses=tuple(losses), metrics=_metrics(losses, lines))


def _line(index: int, lesson: Lesson) -> _LessonLine:
    targets = np.frombuffer(lesson.target_tokens.data, "<i8")
    student, teacher = (
        np.concatenate([np.frombuffer(prompt, "<i4"), targets[:-1]]).astype(np.int64)
        for prompt in (lesson.student_tokens, lesson.teacher_tokens)
    )
    weights = torch.from_numpy(floats_of(lesson.weights).copy())
    return _LessonLine(index=index, student=student, teacher=teacher, weights=weights)


def _distributions(
    base: ScoringBase, lora: LoraTensors, inputs: Sequence[np.ndarray], lines: Sequence[_LessonLine]
) -> Tensor:
    """Return the log-probabilities of the whole vocabulary at every target position, line after line."""
    longest = max(map(len, inputs))
    inputs_BL = np.zeros((len(inputs), longest), np.int64)
    where = []
    for row, (tokens, line) in enumerate(zip(inputs, lines, strict=True)):
        inputs_BL[row, : len(tokens)] = tokens
        where.append(np.arange(len(tokens) - line.targets, len(tokens)) + row * longest)
    where_T = torch.from_numpy(np.concatenate(where))
    whole_TV = torch.arange(base.facts.vocab_size).expand(len(where_T), -1)
    return base.target_logprobs(torch.from_numpy(inputs_BL), where_T, whole_TV, [(lora, len(inputs))])


def _refusal(losses: Sequence[float], gradient: Tensor | None, step: int) -> NotFinite | None:
    value = math.fsum(losses) if all(map(math.isfinite, losses)) else math.nan
    what = "loss"
    if math.isfinite(value) and gradient is not None and not bool(gradient.isfinite().all()):
        what, value = "gradient", math.nan
    return None if math.isfinite(value) else NotFinite(what=what, step=step + 1, value=value, kept=step)


def _metrics(losses: Sequence[float], lines: Sequence[_LessonLine]) -> dict[str, float]:
    """Return the metrics that Mind Lab's toolkit names; a mean is over the tokens that have a weight."""
    counted = sum(int((line.weights != 0).sum()) for line in lines)
    total = math.fsum(losses)
    return {
        "loss:sum": total,
        "loss:mean": total / max(1, counted),
        "reverse_kl:mean": total / max(1, counted),
        "num_samples:sum": float(len(lines)),
        "num_tokens:sum": float(counted),
    }
