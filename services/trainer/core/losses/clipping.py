"""Ratios between the policy and its sampler, and the band that they are clipped to. T = target tokens."""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

import torch
from torch import Tensor

from services.trainer.core.losses.loss import TokenInputs

BOUNDS = ("clip_low_threshold", "clip_high_threshold")
_USUAL = (0.8, 1.2)


def ratio_of(tokens: TokenInputs) -> Tensor:
    """Return exp(lp_t - old_t)."""
    return torch.exp(tokens.logprobs_T - tokens.needed("logprobs"))


def clipped(ratio_T: Tensor, tokens: TokenInputs) -> Tensor:
    """Return the ratio inside the band: a token's own bounds, else those of the config, else 0.8 and 1.2."""
    low, high = (_bound(tokens, name, usual) for name, usual in zip(BOUNDS, _USUAL, strict=True))
    return torch.minimum(torch.maximum(ratio_T, low), high)


def _bound(tokens: TokenInputs, name: str, usual: float) -> Tensor:
    bound = tokens.config.get(name, usual)
    bound_T = tokens.optional(name, missing=bound)
    return torch.as_tensor(bound, device=tokens.logprobs_T.device) if bound_T is None else bound_T


def clipped_surrogate(ratio_T: Tensor, tokens: TokenInputs) -> Tensor:
    """Return -sum_t min(r_t A_t, clip(r_t) A_t): Schulman et al. 2017 (arXiv 1707.06347), eq. 7."""
    advantages_T = tokens.needed("advantages")
    return -torch.minimum(ratio_T * advantages_T, clipped(ratio_T, tokens) * advantages_T).sum()
