"""The terms of policy gradients: what a token gains, and where its ratio is bounded.

Each has the gradient of its equation in the policy's log-probability lp; q is the sampler's, r = exp(lp - q),
sg stops the gradient, and A is the advantage. T = target tokens, S = sequences.
"""
# ruff: noqa: N803, N806, N815  # tensors carry their shape in their name

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mint_common.events.policy_gradient import PolicyLoss
from services.trainer.core.losses.loss import Config
from services.trainer.core.losses.mismatch import truncated_weights
from services.trainer.core.losses.tokens import sequence_sums
from services.trainer.core.mismatch_rules import TRUNCATED_AT

FURTHEST = 20.0
"""Limit of |log r| in bounded losses, as in verl: its exponential stays finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratios:
    """Tokens with both log-probabilities; tokens that do not count have lp = q, A = 0 and ``counted_T`` 0.

    ``sequence_T`` numbers the sequence of each token; all tokens of a sequence are there.
    """

    trained_T: Tensor
    sampled_T: Tensor
    advantages_T: Tensor
    counted_T: Tensor | None
    sequence_T: Tensor
    config: Config

    @property
    def low(self) -> float:
        """Return the lower bound."""
        return self.config["clip_low"]

    @property
    def high(self) -> float:
        """Return the upper bound."""
        return self.config["clip_high"]

    def ratio_T(self) -> Tensor:  # noqa: N802  # as above
        """Return r."""
        return torch.exp((self.trained_T - self.sampled_T).clamp(-FURTHEST, FURTHEST))

    def mean_ratio_T(self) -> Tensor:  # noqa: N802  # as above
        """Return sg exp(mean(lp - q)) of each token's sequence, over the tokens that count."""
        drift_T = (self.trained_T - self.sampled_T).detach().clamp(-FURTHEST, FURTHEST)
        counts_T = torch.ones_like(drift_T) if self.counted_T is None else self.counted_T
        count = int(self.sequence_T.max()) + 1 if len(self.sequence_T) else 0
        sums_S = sequence_sums(drift_T, self.sequence_T, count=count)
        counts_S = sequence_sums(counts_T, self.sequence_T, count=count).clamp(min=1)
        return torch.exp(sums_S / counts_S)[self.sequence_T]


Surrogate = Callable[[Ratios], tuple[Tensor, Tensor]]
"""Returns g_T, so that the loss is -sum_t g_t A_t, and where a bound acts (bool)."""


def unbounded(ratios: Ratios) -> tuple[Tensor, Tensor]:
    """Return g = r, importance sampling: Schulman et al. 2017 (arXiv 1707.06347), eq. 6.

    With ``truncated_at`` C: g = sg(min(r, C)) lp, `truncated_weights`.
    """
    trained_T, sampled_T = ratios.trained_T, ratios.sampled_T
    if "truncated_at" not in ratios.config:
        gained_T = torch.exp(trained_T - sampled_T)
        return gained_T, torch.zeros_like(gained_T, dtype=torch.bool)
    cap = ratios.config["truncated_at"]
    weights_T = truncated_weights(trained_T, sampled_T, cap=cap)
    return weights_T * trained_T, weights_T >= cap


def clip(ratios: Ratios) -> tuple[Tensor, Tensor]:
    """Return g so that g A = min(r A, clip(r, low, high) A): Schulman et al. 2017 (arXiv 1707.06347), eq. 7.

    The bounds apart are DAPO's clip-higher, Yu et al. 2025 (arXiv 2503.14476), section 3.1.
    """
    return _clipped(ratios.ratio_T(), ratios)


def gspo(ratios: Ratios) -> tuple[Tensor, Tensor]:
    """Return `clip` of r = s exp(lp - sg(lp)), s = exp(mean(lp - q)) of the sequence.

    GSPO-token of Zheng et al. 2025 (arXiv 2507.18071), eq. 13 and 14.
    """
    ratio_T = ratios.mean_ratio_T() * torch.exp(ratios.trained_T - ratios.trained_T.detach())
    return _clipped(ratio_T, ratios)


def _clipped(ratio_T: Tensor, ratios: Ratios) -> tuple[Tensor, Tensor]:
    bounded_T = ratio_T.detach().clamp(ratios.low, ratios.high)
    acts_T = ratio_T.detach() * ratios.advantages_T > bounded_T * ratios.advantages_T
    return torch.where(acts_T, bounded_T, ratio_T), acts_T


def cispo(ratios: Ratios) -> tuple[Tensor, Tensor]:
    """Return g = sg(clip(r, low, high)) lp: MiniMax-M1, Chen et al. 2025 (arXiv 2506.13585), eq. 4."""
    ratio_T = ratios.ratio_T().detach()
    weights_T = ratio_T.clamp(ratios.low, ratios.high)
    return weights_T * ratios.trained_T, weights_T != ratio_T


def dppo(ratios: Ratios) -> tuple[Tensor, Tensor]:
    """Return g = r, or 0 where A > 0 and p - p_q > high, or A < 0 and p_q - p > low.

    p = exp(lp) and p_q = exp(q): DPPO with the binary total variation (arXiv 2602.04879), as prime-rl has it.
    With ``truncated_at``, `unbounded` of what is kept.
    """
    rise_T = torch.exp(ratios.trained_T.detach()) - torch.exp(ratios.sampled_T)
    too_high_T = (ratios.advantages_T > 0) & (rise_T > ratios.high)
    too_low_T = (ratios.advantages_T < 0) & (rise_T < -ratios.low)
    acts_T = too_high_T | too_low_T
    # Where it acts the ratio is 1 before it is dropped, so that none is too large for its gradient.
    kept = replace(ratios, trained_T=torch.where(acts_T, ratios.sampled_T, ratios.trained_T))
    if "truncated_at" in ratios.config:
        gained_T, capped_T = unbounded(kept)
        return torch.where(acts_T, torch.zeros_like(gained_T), gained_T), acts_T | capped_T
    ratio_T = kept.ratio_T()
    return torch.where(acts_T, torch.zeros_like(ratio_T), ratio_T), acts_T


def tis(ratios: Ratios) -> tuple[Tensor, Tensor]:
    """Return g = sg(min(r, high)) lp: truncated importance sampling, `truncated_weights`."""
    weights_T = truncated_weights(ratios.trained_T, ratios.sampled_T, cap=ratios.high)
    return weights_T * ratios.trained_T, weights_T >= ratios.high


def mis(ratios: Ratios) -> tuple[Tensor, Tensor]:
    """Return g = sg(r) lp inside [low, high], 0 outside: masked importance sampling.

    The mask of a token, verl's ``token_k1`` rejection and TRL's ``token_mask``.
    """
    ratio_T = ratios.ratio_T().detach()
    acts_T = (ratio_T < ratios.low) | (ratio_T > ratios.high)
    return torch.where(acts_T, torch.zeros_like(ratio_T), ratio_T) * ratios.trained_T, acts_T


def geo_rs(ratios: Ratios) -> tuple[Tensor, Tensor]:
    """Return g = sg(min(r, 2)) lp in sequences whose exp(mean(lp - q)) is inside [low, high], 0 in others.

    Geometric rejection with truncated tokens, verl's ``bypass_pg_geo_rs_token_tis``
    (docs/algo/rollout_corr_math.md, 3.3.3).
    """
    mean_T = ratios.mean_ratio_T()
    acts_T = (mean_T < ratios.low) | (mean_T > ratios.high)
    weights_T = truncated_weights(ratios.trained_T, ratios.sampled_T, cap=TRUNCATED_AT)
    return torch.where(acts_T, torch.zeros_like(weights_T), weights_T) * ratios.trained_T, acts_T


SURROGATES: Mapping[PolicyLoss, Surrogate] = {
    "is": unbounded,
    "clip": clip,
    "gspo": gspo,
    "cispo": cispo,
    "dppo": dppo,
    "tis": tis,
    "mis": mis,
    "geo-rs": geo_rs,
}
