"""Clip and AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) for many policies in a few calls.

Invariant: a policy's numbers are those of a call for it alone, bit for bit: nothing is reduced over policies.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from services.trainer.adapters.states.training_state import MOMENTS, TrainingState

_SMALLEST_NORM = 1e-6


def clip_gradients(states: Sequence[TrainingState], clip_norms: Sequence[float]) -> list[float]:
    """Scale each gradient down to its norm's limit, 0: none; return the norms before."""
    if not states:
        return []
    gradients = [state.lora.leaf.grad for state in states]
    norms = _together([torch.linalg.vector_norm(gradient) for gradient in gradients])
    for gradient, norm, limit in zip(gradients, norms, clip_norms, strict=True):
        if limit and limit < norm + _SMALLEST_NORM < math.inf:
            gradient.mul_(limit / (norm + _SMALLEST_NORM))
    return norms


def step_optimizers(states: Sequence[TrainingState], learning_rates: Sequence[float]) -> list[float]:
    """Step policies on their gradients and clear these; return each one's largest weight."""
    if not states:
        return []
    alike: dict[_Rates, list[TrainingState]] = {}
    for state, rate in zip(states, learning_rates, strict=True):
        (group,) = state.optimizer.param_groups
        group["lr"] = rate
        beta1, beta2 = group["betas"]
        rates = _Rates(rate, beta1, beta2, group["eps"], group["weight_decay"])
        alike.setdefault(rates, []).append(state)
    for rates, members in alike.items():
        _step_alike(members, rates)
    for state in states:
        state.lora.leaf.grad = None
    return _together([torch.linalg.vector_norm(state.lora.leaf.detach(), math.inf) for state in states])


class _Rates(NamedTuple):
    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


def _step_alike(states: Sequence[TrainingState], rates: _Rates) -> None:
    leaves = [state.lora.leaf for state in states]
    kept = [_kept(state) for state in states]
    with torch.no_grad():
        adamw(
            leaves,
            [leaf.grad for leaf in leaves],
            *([one[name] for one in kept] for name in MOMENTS),
            [],
            [one["step"] for one in kept],
            fused=True,
            amsgrad=False,
            maximize=False,
            **rates._asdict(),
        )


def _kept(state: TrainingState) -> dict[str, Tensor]:
    """Return what the optimizer keeps of a policy: nothing before the first step."""
    leaf = state.lora.leaf
    kept: dict[str, Tensor] = state.optimizer.state[leaf]
    if not kept:
        kept["step"] = torch.zeros(())
        kept.update({name: torch.zeros_like(leaf, requires_grad=False) for name in MOMENTS})
    return kept


def _together(values: Sequence[Tensor]) -> list[float]:
    numbers: list[float] = torch.stack(list(values)).tolist()
    return numbers
