"""The compared answers of a step: each one's log-probability relative to the base, and each row's weight.

A preference loss joins rows that may be in different micro-batches. So log-probabilities are computed
first, without gradients; the loss's derivative by a row's log-probability is then the weight of that row's
tokens in a cross entropy, and rows are as independent as in any other loss. The gradient is exact, not an
estimate.

T = target tokens, N = wanted answers, M = unwanted answers.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from services.trainer.adapters.training.pass_sum import PassResult
from services.trainer.core.batch import Row
from services.trainer.core.losses.loss import Comparison, Config, PreferenceLoss
from services.trainer.core.losses.tokens import sequence_sums
from services.trainer.core.packing import PackedSequence

MovedAnswer = tuple[Row, Tensor]
"""An answer, and how much likelier the policy finds it than its base does: the difference of their logs."""


def weigh_answers(
    loss: PreferenceLoss,
    config: Config,
    rows: Sequence[Row],
    answers: Iterable[MovedAnswer],
) -> tuple[list[Row], dict[str, float]]:
    """Return the rows with their weights, and metrics: the mean loss first.

    ``answers`` are the results of the rows and the mismatched ones, in any order.
    """
    kinds = {kind: torch.zeros(sum(row.advantage == kind for row in rows)) for kind in (1.0, -1.0)}
    mismatched = []
    for row, moved in answers:
        if row.advantage:
            kinds[row.advantage][row.pair] = moved
        else:
            mismatched.append(moved)
    wanted_N, unwanted_M = (moved.requires_grad_() for moved in kinds.values())
    mismatched_K = torch.stack(mismatched) if mismatched else torch.zeros(0)
    compared = Comparison(wanted_N=wanted_N, unwanted_M=unwanted_M, mismatched_K=mismatched_K)
    divisor = len(wanted_N) + (len(unwanted_M) if loss.aggregation == "answer_mean" else 0)
    mean = loss.formula(compared, config) / divisor
    weights = dict(zip(kinds, torch.autograd.grad(mean, (wanted_N, unwanted_M)), strict=True))
    with torch.no_grad():
        measures = loss.measures(compared, config)
    weighted = [replace(row, weight=-float(weights[row.advantage][row.pair])) for row in rows]
    return weighted, {"loss:mean": float(mean.detach()), **measures}


def moved_answers(lines: Sequence[PackedSequence], scored: PassResult) -> Iterator[MovedAnswer]:
    """Yield each row of the lines with log pi(y|x) - log base(y|x), from the lines' scores."""
    for line, scores in zip(lines, scored.scores, strict=True):
        assert scores.base is not None, "reads_base"
        sequence_T = torch.repeat_interleave(torch.tensor([row.targets for row in line.rows]))
        moved_T = torch.from_numpy(scores.logprobs) - torch.from_numpy(scores.base)
        yield from zip(line.rows, sequence_sums(moved_T, sequence_T, count=len(line.rows)), strict=True)
