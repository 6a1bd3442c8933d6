"""The pairs of a step: how far a policy has moved from its base on each answer, and what each row weighs.

A pair's loss joins two rows that may stand in different micro-batches. So log-probabilities are computed
first, without gradients; the loss's derivative by a row's log-probability is then the weight of that row's
tokens in a cross entropy, and rows are as independent as in any other loss. The gradient is the loss's own,
not an estimate.

T = target tokens, N = pairs.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from services.trainer.adapters.training.pass_sum import PassResult
from services.trainer.core.batch import Row
from services.trainer.core.losses.loss import Config, PairLoss
from services.trainer.core.losses.tokens import sequence_sums
from services.trainer.core.packing import PackedSequence


def weigh_pairs(
    loss: PairLoss,
    config: Config,
    rows: Sequence[Row],
    lines: Sequence[PackedSequence],
    scored: PassResult,
) -> tuple[list[Row], dict[str, float]]:
    """Return the rows with their weights, and metrics: the mean loss first of all.

    ``scored`` is what the rows' lines came to.
    """
    moved_2N = torch.zeros(2, len(rows) // 2)
    for row, moved in _moved(lines, scored):
        moved_2N[_index(row)] = moved
    chosen_N, rejected_N = (moved_N.clone().requires_grad_() for moved_N in moved_2N)
    mean = loss.formula(chosen_N, rejected_N, config) / len(chosen_N)
    weight_2N = torch.stack(torch.autograd.grad(mean, (chosen_N, rejected_N)))
    measures = loss.measures(moved_2N[0], moved_2N[1], config)
    weighted = [replace(row, weight=-float(weight_2N[_index(row)])) for row in rows]
    return weighted, {"loss:mean": float(mean.detach()), **measures}


def _moved(lines: Sequence[PackedSequence], scored: PassResult) -> Iterator[tuple[Row, torch.Tensor]]:
    """Yield each row with log pi(y|x) - log base(y|x)."""
    for line, scores in zip(lines, scored.scores, strict=True):
        assert scores.base is not None, "reads_base"
        sequence_T = torch.repeat_interleave(torch.tensor([row.targets for row in line.rows]))
        moved_T = torch.from_numpy(scores.logprobs) - torch.from_numpy(scores.base)
        yield from zip(line.rows, sequence_sums(moved_T, sequence_T, count=len(line.rows)), strict=True)


def _index(row: Row) -> tuple[int, int]:
    """Return where a row's number is: better answers first."""
    return (0 if row.advantage > 0 else 1), row.pair
