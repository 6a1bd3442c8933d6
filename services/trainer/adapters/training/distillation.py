"""Forward and backward of a policy towards a teacher over the same base.

Invariants: the whole gradient is added or nothing; the teacher changes nothing and has no state.
T = target positions of a micro-batch, V = vocabulary.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mint_common.training import Distill, Distilled, Lesson
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.training.runs import Runs
from services.trainer.core.datum_lines import CompletionLine, floats_of
from services.trainer.core.losses.reverse_kl import reverse_kl
from services.trainer.core.microbatches import plan_microbatches
from services.trainer.core.refusals import NotFinite

_DISTRIBUTIONS = 4
"""Whole distributions that are alive at a time, for each of a pass's logits."""
_TARGET_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _LessonLine:
    """A lesson, or a part of one, after the policy's prompt and after the teacher's."""

    index: int
    student: CompletionLine
    teacher: CompletionLine
    weights: Tensor
    policy: int = 0

    @property
    def length(self) -> int:
        """Return how much the longer of both reads."""
        return max(self.student.length, self.teacher.length)

    @property
    def targets(self) -> int:
        """Return the number of positions that the loss falls on."""
        return len(self.weights)


def distillation_runs(
    base: ScoringBase,
    student: LoraTensors,
    teacher: LoraTensors,
    work: Distill,
    *,
    step: int,
    max_tokens: int,
) -> Runs[Distilled | NotFinite]:
    """Add the gradient of the weighted sum of the reverse KL, in runs (see `pass_runs`).

    Returns the result of each lesson.
    """
    max_targets = lesson_targets(base.logits_targets)
    lines = [
        line
        for index, lesson in enumerate(work.data)
        for line in _lines(index, lesson, base.facts.vocab_size, max_targets=max_targets)
    ]
    losses = [0.0] * len(work.data)
    held, student.leaf.grad = student.leaf.grad, None
    try:
        for batch in plan_microbatches(lines, max_tokens=max_tokens, max_targets=max_targets):
            for line, loss in zip(
                batch, _learn(base, student, teacher, batch, work.temperature), strict=True
            ):
                losses[line.index] += loss
            yield sum(line.student.length + line.teacher.length for line in batch)
    except GeneratorExit:
        student.leaf.grad = held
        raise
    leaf = student.leaf
    refusal = _refusal(losses, leaf.grad, step)
    if refusal is not None:
        leaf.grad = held
        return refusal
    if held is not None and leaf.grad is not None:
        leaf.grad = held + leaf.grad
    return Distilled(losses=tuple(losses), metrics=_metrics(losses, lines))


def _learn(
    base: ScoringBase,
    student: LoraTensors,
    teacher: LoraTensors,
    batch: Sequence[_LessonLine],
    temperature: float,
) -> list[float]:
    """Add the gradient of some lessons and return their losses."""
    with torch.no_grad():
        teacher_TV = base.score([line.teacher for line in batch], [teacher]).logprobs_T
    student_TV = base.score([line.student for line in batch], [student]).logprobs_T
    loss_T = reverse_kl(student_TV, teacher_TV, temperature)
    loss_T = loss_T * torch.cat([line.weights for line in batch]).to(loss_T.device)
    loss_T.sum().backward()
    return [float(part.sum()) for part in loss_T.detach().split([line.targets for line in batch])]


def _lines(index: int, lesson: Lesson, vocabulary: int, *, max_targets: int) -> Iterator[_LessonLine]:
    """Yield a lesson in parts of so many targets: each reads the targets before it as a prompt."""
    weights, targets = floats_of(lesson.weights).copy(), lesson.target_tokens.data
    before = np.frombuffer(targets, "<i8").astype("<i4")
    for begin, end in _parts(len(weights), max_targets):
        student, teacher = (
            CompletionLine(
                prompt=prompt + before[:begin].tobytes(),
                tokens=targets[_TARGET_BYTES * begin : _TARGET_BYTES * end],
                vocabulary=vocabulary,
            )
            for prompt in (lesson.student_tokens, lesson.teacher_tokens)
        )
        yield _LessonLine(
            index=index, student=student, teacher=teacher, weights=torch.from_numpy(weights[begin:end])
        )


def _parts(targets: int, max_targets: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + max_targets, targets)) for begin in range(0, targets, max_targets)]


def lesson_targets(logits_targets: int) -> int:
    """Return how many targets a part of a lesson has, where the logits of so many fit into memory."""
    return max(1, logits_targets // _DISTRIBUTIONS)


def lesson_tokens(lesson: Lesson, *, max_targets: int) -> int:
    """Return how many tokens the parts of a lesson read: each reads the targets before it again."""
    prompts = len(lesson.student_tokens) // 4 + len(lesson.teacher_tokens) // 4
    return sum(prompts + 2 * (end - 1) for _, end in _parts(lesson.target_tokens.shape[0], max_targets))


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
        "num_samples:sum": float(len(losses)),
        "num_tokens:sum": float(counted),
    }
