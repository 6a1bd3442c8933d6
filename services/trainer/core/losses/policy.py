"""Losses that fit a policy to targets or to rewards, as the Tinker API defines them (its `loss_fn` names).

lp = the policy's log-probability of a target, old = the sampler's, A = advantage, r = exp(lp - old). On fresh
rollouts r is 1 and every one of them but `dro` has the gradient of REINFORCE (Williams 1992).
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """The band of a clipped ratio: two numbers, or two tensors with a bound for each token."""

    low: float | Tensor = 0.8
    high: float | Tensor = 1.2

    def apply(self, ratio_T: Tensor) -> Tensor:
        """Return the ratio inside the band."""
        low = torch.as_tensor(self.low, dtype=ratio_T.dtype)
        return torch.minimum(torch.maximum(ratio_T, low), torch.as_tensor(self.high, dtype=ratio_T.dtype))


def cross_entropy(logprobs_T: Tensor, weights_T: Tensor | None = None) -> Tensor:
    """Return the weighted negative log-likelihood, -sum_t lp_t w_t; shape [T, K] for distillation too."""
    return -(logprobs_T if weights_T is None else logprobs_T * weights_T).sum()


def importance_sampling(logprobs_T: Tensor, sampled_T: Tensor, advantages_T: Tensor) -> Tensor:
    """Return the importance-sampled policy-gradient loss, -sum_t r_t A_t.

    The ratio corrects a sampler that lags behind: the surrogate before clipping of Schulman et al. 2017
    (arXiv 1707.06347, eq. 6). With GRPO's advantages and a mean over the step's tokens, as in DAPO (Yu et al.
    2025, arXiv 2503.14476), this is the loss of managed GRPO jobs.
    """
    return -(torch.exp(logprobs_T - sampled_T) * advantages_T).sum()


def ppo(logprobs_T: Tensor, sampled_T: Tensor, advantages_T: Tensor, *, clip: Clip) -> Tensor:
    """Return the clipped surrogate, -sum_t min(r_t A_t, clip(r_t) A_t): Schulman et al. 2017, eq. 7."""
    return _clipped(torch.exp(logprobs_T - sampled_T), advantages_T, clip)


def cispo(logprobs_T: Tensor, sampled_T: Tensor, advantages_T: Tensor, *, clip: Clip) -> Tensor:
    """Return -sum_t sg(clip(r_t)) lp_t A_t: a clipped token keeps its gradient.

    MiniMax-M1, Chen et al. 2025 (arXiv 2506.13585).
    """
    ratio_T = clip.apply(torch.exp(logprobs_T.detach() - sampled_T))
    return -(ratio_T * logprobs_T * advantages_T).sum()


def dro(logprobs_T: Tensor, sampled_T: Tensor, advantages_T: Tensor, *, beta: float) -> Tensor:
    """Return -sum_t (lp_t A_t - beta / 2 (lp_t - old_t)^2).

    Direct reward optimisation, Richemond et al. 2024 (arXiv 2405.19107): a quadratic pull to the sampler
    takes the place of the ratio.
    """
    drift_T = logprobs_T - sampled_T
    return -(logprobs_T * advantages_T - 0.5 * beta * drift_T.square()).sum()


def gspo(
    logprobs_T: Tensor,
    sampled_T: Tensor,
    advantages_T: Tensor,
    *,
    sequence_T: Tensor,
    mask_T: Tensor,
    clip: Clip,
) -> Tensor:
    """Return the clipped surrogate with one ratio per sequence, and its gradient spread over the tokens.

    s = mean over the sequence's masked-in tokens of (sg(lp) - old), r_t = exp(s + lp_t - sg(lp_t)):
    GSPO-token of Zheng et al. 2025 (arXiv 2507.18071), as Tinker has it. ``sequence_T`` numbers the sequence
    of each token from 0; ``mask_T`` is 1 where a token counts for the ratio.
    """
    frozen_T = logprobs_T.detach()
    drift_T = torch.where(mask_T > 0, frozen_T - sampled_T, torch.zeros_like(frozen_T))
    count_S = torch.bincount(sequence_T, weights=(mask_T > 0).to(frozen_T.dtype)).clamp(min=1)
    mean_S = torch.bincount(sequence_T, weights=drift_T) / count_S
    ratio_T = torch.exp(mean_S[sequence_T] + logprobs_T - frozen_T)
    return _clipped(ratio_T, advantages_T, clip)


def _clipped(ratio_T: Tensor, advantages_T: Tensor, clip: Clip) -> Tensor:
    return -torch.minimum(ratio_T * advantages_T, clip.apply(ratio_T) * advantages_T).sum()
