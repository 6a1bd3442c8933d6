"""Corrections for tokens on which sampler and trainer disagree.

All use detached log-probabilities and return weights that multiply a token's loss.
T = target tokens, K = experts of a token in one layer, L = layers.
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

import torch
from torch import Tensor


def truncated_weights(trained_T: Tensor, sampled_T: Tensor, *, cap: float) -> Tensor:
    """Return min(exp(logp_t - logq_t), cap), truncated importance sampling.

    Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"; ``trained_T``
    is the trainer's log-probability under the weights that sampled. Separate from a loss's own ratio.
    """
    return torch.exp(trained_T.detach() - sampled_T).clamp(max=cap)


def trusted_band(trained_T: Tensor, sampled_T: Tensor, *, low: float, high: float) -> Tensor:
    """Return exp(logp_t - logq_t) inside [low, high] and 0 outside: IcePop.

    Ling Team 2025 (arXiv 2510.18855): a token that both sides see too differently teaches nothing.
    For architectures whose selections are not replayed (DSA).
    """
    ratio_T = torch.exp(trained_T.detach() - sampled_T)
    return torch.where((ratio_T >= low) & (ratio_T <= high), ratio_T, torch.zeros_like(ratio_T))


def replayed_mask(recorded_TLK: Tensor, *, experts: int) -> Tensor:
    """Return 1 where every recorded expert of a token exists in the base, else 0 (R3).

    Ma et al. 2025 (arXiv 2510.11370) replay the sampler's routes; a token without a route that can be mapped
    is left out of the policy gradient.
    """
    usable_TLK = (recorded_TLK >= 0) & (recorded_TLK < experts)
    return usable_TLK.flatten(1).all(dim=1).float()


def out_of_route(chosen_TLK: Tensor, recorded_TLK: Tensor) -> Tensor:
    """Return for each token the share of recorded experts that the trainer's own router would not take."""
    found_TLK = (recorded_TLK[..., :, None] == chosen_TLK[..., None, :]).any(dim=-1)
    return 1 - found_TLK.flatten(1).float().mean(dim=1)
