"""Log-probabilities of tokens, and how far two of them are apart. T = target tokens, V = vocabulary.

K = targets of a position, where there are several.
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

import torch
from torch import Tensor
from torch.nn.functional import nll_loss


def token_logprobs(logits_TV: Tensor, targets: Tensor, temperature_T: Tensor | None = None) -> Tensor:
    """Return log p of the targets ``[T]`` or ``[T, K]``, accumulated in float32: z_y - log sum_v exp(z_v).

    z are the logits over the temperature of each position, as an engine's processed log-probabilities have
    it; None: the logits themselves, the model's own distribution, as its raw ones.
    """
    logits_TV = logits_TV.float()
    if temperature_T is not None:
        logits_TV = logits_TV / temperature_T[:, None]
    logprobs_TV = logits_TV.log_softmax(dim=-1)  # forward and backward in half the time of logsumexp
    if targets.dim() == 1:
        return -nll_loss(logprobs_TV, targets, reduction="none")
    return logprobs_TV.gather(-1, targets)


def token_hits(logits_TV: Tensor, targets: Tensor) -> Tensor:
    """Return 1 where a target ``[T]``, or the first of ``[T, K]``, is the likeliest token, else 0.

    Where several tokens are the likeliest, each of them is a hit.
    """
    first_T = targets if targets.dim() == 1 else targets[:, 0]
    own_T = logits_TV.gather(-1, first_T[:, None])[:, 0]
    return (own_T >= logits_TV.amax(dim=-1)).to(logits_TV.dtype)


def kl_to_base(logprobs_T: Tensor, base_T: Tensor) -> Tensor:
    """Return the k3 estimate of KL(policy || base), sum_t exp(b_t - p_t) - (b_t - p_t) - 1.

    Non-negative per token and unbiased for samples of the policy: Schulman 2020, "Approximating KL
    divergence" (joschu.net/blog/kl-approx.html); GRPO eq. 4. ``base_T`` comes of the same model with the
    adapter switched off, and carries no gradient.
    """
    difference_T = base_T - logprobs_T
    return (torch.exp(difference_T) - difference_T - 1).sum()


def ratio_max_error(logprobs_T: Tensor, sampled_T: Tensor) -> float:
    """Return max_t |exp(logp_t - logq_t) - 1|: how far trainer and sampler disagree about the same tokens."""
    return float(torch.expm1(logprobs_T - sampled_T).abs().max())


def sampler_kl(logprobs_T: Tensor, sampled_T: Tensor) -> float:
    """Return the k3 estimate of KL(sampler || trainer), summed over the sampler's own tokens.

    sum_t exp(p_t - q_t) - (p_t - q_t) - 1: see `kl_to_base`.
    """
    return float(kl_to_base(sampled_T.double(), logprobs_T.double()))  # near 0 float32 has no digits left


def sequence_sums(values_T: Tensor, sequence_T: Tensor, *, count: int) -> Tensor:
    """Return the sum of each sequence's tokens; ``sequence_T`` numbers the sequence of each token."""
    return values_T.new_zeros(count).index_add(0, sequence_T, values_T)
