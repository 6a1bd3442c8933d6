"""Log-probabilities of tokens, and how far two of them are apart. T = target tokens, V = vocabulary.

K = targets of a position, where there are several.
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

from dataclasses import dataclass

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
    """Return for each token the k3 estimate of KL(policy || base), with the gradient of k2.

    With d = lp - base, k3 = exp(-d) - 1 + d is non-negative and unbiased for samples of the policy: Schulman
    2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html); GRPO eq. 4. Its own gradient is that
    of KL(base || policy); the gradient of k2 = d^2 / 2, d grad(lp), is that of KL(policy || base): Tang and
    Munos 2025 (arXiv 2506.09477), and verl's ``k3+``. ``base_T`` comes of the same model with the adapter
    switched off, and carries no gradient.
    """
    moved_T = logprobs_T - base_T
    k2_T = moved_T**2 / 2
    return _k3(moved_T.detach()) + (k2_T - k2_T.detach())


def _k3(moved_T: Tensor) -> Tensor:
    return torch.exp(-moved_T) + moved_T - 1


def ratio_max_error(logprobs_T: Tensor, sampled_T: Tensor) -> float:
    """Return max_t |exp(logp_t - logq_t) - 1|: how far trainer and sampler disagree about the same tokens."""
    return float(torch.expm1(log_ratio(logprobs_T, sampled_T)).abs().max())


def log_ratio(logprobs_T: Tensor, sampled_T: Tensor) -> Tensor:
    """Return logp_t - logq_t, at most 80 so that its exponential is finite."""
    return (logprobs_T - sampled_T).clamp(max=80.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioSums:
    """Sums over sampled tokens of their ratios r_t = exp(logp_t - logq_t), in float64."""

    tokens: int = 0
    kl: float = 0.0
    ratio: float = 0.0
    squared: float = 0.0
    highest: float = 0.0

    @property
    def sampler_kl(self) -> float:
        """Return the k3 estimate of KL(sampler || trainer) per token: sum_t r_t - 1 - log(r_t)."""
        return self.kl / max(1, self.tokens)

    @property
    def effective_share(self) -> float:
        """Return the effective sample size as a share of the tokens: (sum_t r_t)^2 / (n sum_t r_t^2).

        Kong 1992, "A note on importance sampling using standardized weights"; 1 on fresh rollouts.
        """
        return self.ratio**2 / (self.tokens * self.squared) if self.squared else 0.0

    def added(self, logprobs_T: Tensor, sampled_T: Tensor) -> "RatioSums":
        """Return the sums with those of further tokens."""
        moved_T = log_ratio(logprobs_T.double(), sampled_T.double())  # near 0 float32 has no digits left
        ratio_T = torch.exp(moved_T)
        return RatioSums(
            tokens=self.tokens + len(moved_T),
            kl=self.kl + float(_k3(-moved_T).sum()),
            ratio=self.ratio + float(ratio_T.sum()),
            squared=self.squared + float((ratio_T**2).sum()),
            highest=max(self.highest, float(ratio_T.max())) if len(moved_T) else self.highest,
        )


def sequence_sums(values_T: Tensor, sequence_T: Tensor, *, count: int) -> Tensor:
    """Return the sum of each sequence's tokens; ``sequence_T`` numbers the sequence of each token."""
    return values_T.new_zeros(count).index_add(0, sequence_T, values_T)
