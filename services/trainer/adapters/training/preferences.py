"""The pairs of a step: how far a policy has moved from its base on each answer, and what each row weighs.

A pair's loss joins two rows that may stand in different micro-batches. So log-probabilities are computed
first, without gradients; the loss's derivative by a row's log-probability is then the weight of that row's
tokens, and rows are as independent as in any other loss. The gradient is the loss's own, not an estimate.

T = target tokens, N = pairs.
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

from collections.abc import Sequence

import torch
from torch import Tensor

from services.trainer.core.batch import Row
from services.trainer.core.losses.loss import Config, PairLoss
from services.trainer.core.losses.tokens import sequence_sums


class Preferences:
    """The pairs of one policy's step. `note` every row, then `weigh`."""

    def __init__(self, loss: PairLoss, config: Config, *, pairs: int) -> None:
        self._loss = loss
        self._config = config
        self._moved_2N = torch.zeros(2, pairs)
        self._weight_2N = torch.zeros(2, pairs)

    def note(self, rows: Sequence[Row], policy_T: Tensor, base_T: Tensor) -> None:
        """Remember log pi(y|x) - log base(y|x) of some rows, given their tokens' log-probabilities."""
        sequence_T = torch.repeat_interleave(torch.tensor([len(row.tokens) for row in rows]))
        moved = sequence_sums(policy_T - base_T, sequence_T, count=len(rows))
        for row, value in zip(rows, moved, strict=True):
            self._moved_2N[_index(row)] = value

    def weigh(self) -> dict[str, float]:
        """Set every row's weight and return the metrics: the mean loss first of all."""
        chosen_N, rejected_N = (moved_N.clone().requires_grad_() for moved_N in self._moved_2N)
        loss = self._loss.formula(chosen_N, rejected_N, self._config) / len(chosen_N)
        self._weight_2N = torch.stack(torch.autograd.grad(loss, (chosen_N, rejected_N)))
        chosen_N, rejected_N = self._moved_2N
        measures = self._loss.measures(chosen_N, rejected_N, self._config)
        return {"loss": float(loss.detach()), **measures}

    def surrogate(self, rows: Sequence[Row], logprobs_T: Tensor) -> Tensor:
        """Return what has the gradient of the loss: the rows' log-probabilities by their weights."""
        weights = torch.stack([self._weight_2N[_index(row)] for row in rows])
        weights_T = weights.repeat_interleave(torch.tensor([len(row.tokens) for row in rows]))
        return (weights_T * logprobs_T).sum()


def _index(row: Row) -> tuple[int, int]:
    """Return where a row's number is: better answers first."""
    return (0 if row.advantage > 0 else 1), row.pair
