"""Losses over pairs of completions, one preferred. N = pairs, T = target tokens."""
# ruff: noqa: N803  # tensors carry their shape in their name

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def sequence_sums(values_T: Tensor, sequence_T: Tensor, *, count: int) -> Tensor:
    """Return the sum of each sequence's tokens; ``sequence_T`` numbers the sequence of each token."""
    return torch.zeros(count, dtype=values_T.dtype).index_add(0, sequence_T, values_T)


def dpo(chosen_N: Tensor, rejected_N: Tensor, *, beta: float) -> Tensor:
    """Return -sum_n log sigmoid(beta (c_n - d_n)).

    Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. ``chosen_N`` and ``rejected_N`` are the sums over a
    completion's tokens of (policy's - base's) log-probability; the base is the reference model, which is the
    policy with its adapter switched off.
    """
    return -logsigmoid(beta * (chosen_N - rejected_N)).sum()


def reward_margin(chosen_N: Tensor, rejected_N: Tensor, *, beta: float) -> float:
    """Return the mean of beta (c_n - d_n): how much more the policy has learnt to prefer the chosen."""
    return float((beta * (chosen_N - rejected_N)).mean())
