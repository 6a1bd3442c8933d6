"""Losses over packed completion tokens. T = completion tokens of a micro-batch, V = vocabulary.

Each returns a sum divided by ``normaliser``, the completion tokens of the whole step: the losses of its
micro-batches add up to that of the step, however it was cut.
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

import torch
from torch import Tensor


def token_logprobs(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    """Return log p(target) at each position, accumulated in float32: z_y - log sum_v exp(z_v).

    No temperature is applied: like an engine's raw log-probabilities, these are the model's own.
    """
    logits_TV = logits_TV.float()
    chosen_T = logits_TV.gather(-1, targets_T[:, None])[:, 0]
    return chosen_T - torch.logsumexp(logits_TV, dim=-1)


def policy_gradient(
    logprobs_T: Tensor, sampled_T: Tensor, advantages_T: Tensor, *, normaliser: float
) -> Tensor:
    """Return the importance-sampled policy-gradient loss, -1/N sum_t exp(logp_t - logq_t) A_t.

    ``sampled_T`` is logq, the sampler's. On fresh rollouts the ratio is 1 and the gradient is that of
    REINFORCE (Williams 1992) with GRPO's advantages; the ratio corrects a sampler that lags behind (Schulman
    et al. 2017, arXiv 1707.06347, eq. 6: the surrogate before clipping). Token mean as in DAPO, Yu et al.
    2025 (arXiv 2503.14476).
    """
    ratio_T = torch.exp(logprobs_T - sampled_T)
    return -(ratio_T * advantages_T).sum() / normaliser


def kl_to_base(logprobs_T: Tensor, base_T: Tensor, *, normaliser: float) -> Tensor:
    """Return the k3 estimate of KL(policy || base), 1/N sum_t exp(b_t - p_t) - (b_t - p_t) - 1.

    Non-negative per token and unbiased for samples of the policy: Schulman 2020, "Approximating KL
    divergence" (joschu.net/blog/kl-approx.html); GRPO eq. 4. ``base_T`` carries no gradient.
    """
    difference_T = base_T - logprobs_T
    return (torch.exp(difference_T) - difference_T - 1).sum() / normaliser


def cross_entropy(logprobs_T: Tensor, *, normaliser: float) -> Tensor:
    """Return the negative log-likelihood of the reference tokens, -1/N sum_t logp_t."""
    return -logprobs_T.sum() / normaliser


def ratio_max_error(logprobs_T: Tensor, sampled_T: Tensor) -> float:
    """Return max_t |exp(logp_t - logq_t) - 1|: how far trainer and sampler disagree about the same tokens."""
    return float(torch.expm1(logprobs_T - sampled_T).abs().max())
