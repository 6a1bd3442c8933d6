"""Clip and AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) for many policies in a few calls.

Invariant: a policy's numbers are those of a call for it alone, bit for bit: nothing is reduced over policies.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from mint_common.training import Step, Stepped
from services.trainer.adapters.states.training_state import MOMENTS, TrainingState, fresh_moments
from services.trainer.core.refusals import NotFinite

SPOILT_WEIGHT = "largest weight"
"""Reason that refuses a step which has changed the weights already."""
_MIN_NORM = 1e-6


def clip_gradients(states: Sequence[TrainingState], clip_norms: Sequence[float]) -> list[float]:
    """Scale each gradient down to its norm's limit, 0: none; return the norms before."""
    if not states:
        return []
    gradients = [state.lora.leaf.grad for state in states]
    norms = _together([torch.linalg.vector_norm(gradient) for gradient in gradients])
    for gradient, norm, limit in zip(gradients, norms, clip_norms, strict=True):
        if limit and limit < norm + _MIN_NORM < math.inf:
            gradient.mul_(limit / (norm + _MIN_NORM))
    return norms


def take_steps(states: Sequence[TrainingState], steps: Sequence[Step]) -> list[Stepped | NotFinite]:
    """Clip and step each state on its gradient (none: zeros), clear that, and return what came of it.

    When refused for the gradient's norm, the weights are as before; when refused for a weight, the state is
    spoilt.
    """
    for state in states:
        if state.lora.leaf.grad is None:
            state.lora.leaf.grad = torch.zeros_like(state.lora.leaf, requires_grad=False)
    norms = clip_gradients(states, [step.clip_norm for step in steps])
    sound = [number for number, norm in enumerate(norms) if math.isfinite(norm)]
    largest = _step_all([states[number] for number in sound], [steps[number] for number in sound])
    weights = dict(zip(sound, largest, strict=True))
    return [
        _taken(state, step, norm, weights.get(number))
        for number, (state, step, norm) in enumerate(zip(states, steps, norms, strict=True))
    ]


def _taken(
    state: TrainingState, step: Step, norm: float, largest_weight: float | None
) -> Stepped | NotFinite:
    if largest_weight is None:
        state.lora.leaf.grad = None
        return NotFinite(what="gradient norm", step=state.step + 1, value=norm, kept=state.step)
    if not math.isfinite(largest_weight):
        return NotFinite(what=SPOILT_WEIGHT, step=state.step + 1, value=largest_weight, kept=state.step)
    state.step += 1
    state.moment_steps += 1
    metrics = {"grad_norm:mean": norm, "learning_rate:mean": step.learning_rate}
    return Stepped(step=state.step, metrics=metrics)


def _step_all(states: Sequence[TrainingState], steps: Sequence[Step]) -> list[float]:
    """Step policies on their gradients and clear these; return each one's largest weight."""
    if not states:
        return []
    alike: dict[_Rates, list[TrainingState]] = {}
    for state, step in zip(states, steps, strict=True):
        rates = _Rates(step.learning_rate, step.beta1, step.beta2, step.eps, step.weight_decay)
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
    for state in states:
        if not state.moments:
            state.moments = fresh_moments(state.lora.leaf)
    with torch.no_grad():
        adamw(
            leaves,
            [leaf.grad for leaf in leaves],
            *([state.moments[name] for state in states] for name in MOMENTS),
            [],
            # AdamW counts its steps as float tensors.
            [
                torch.tensor(float(state.moment_steps), device=leaf.device)
                for state, leaf in zip(states, leaves, strict=True)
            ],
            fused=True,
            amsgrad=False,
            maximize=False,
            **rates._asdict(),
        )


def _together(values: Sequence[Tensor]) -> list[float]:
    numbers: list[float] = torch.stack(list(values)).tolist()
    return numbers
