"""The parts of a policy gradient: how rewards become advantages, and how a token's ratio is bounded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

AdvantageRule = Literal["std", "centre", "rloo", "maxrl"]
"""Advantages of a group's rewards R with mean m, of G episodes: (R - m) / std, R - m, G / (G - 1) (R - m), or
(R - m) / m."""

AdvantageSource = AdvantageRule | Literal["teacher"]
"""Source of advantages: a rule of rewards, or a teacher, its log-probability of each sampled token less the
policy's."""

PolicyLoss = Literal["is", "clip", "gspo", "cispo", "dppo", "tis", "mis", "geo-rs"]
"""Bound of the ratio of policy and sampler: none, PPO's clip, GSPO's of whole sequences, CISPO's clipped
weight, DPPO's mask by probabilities, a truncated weight, a masked one, or rejected sequences."""

TokenAggregation = Literal["token_mean", "sequence_mean", "constant"]
"""A step's loss: the mean of its tokens, of its sequences' means, or their sum over a constant length."""

KlPlace = Literal["loss", "reward"]
"""Place of the KL to the base: a term of the loss, with the gradient of k2, or rewards, as k1."""

BOUNDS: Mapping[PolicyLoss, tuple[float | None, float | None]] = {
    "is": (None, None),
    "clip": (0.8, 1.2),
    "gspo": (1 - 3e-4, 1 + 4e-4),
    "cispo": (0.0, 5.0),
    "dppo": (0.2, 0.2),
    "tis": (None, 2.0),
    "mis": (0.5, 2.0),
    "geo-rs": (0.999, 1.001),
}
"""Each loss's default bounds, lower and upper; None: it has none.

PPO's (arXiv 1707.06347), GSPO's (2507.18071), ScaleRL's for CISPO (2510.13786), DPPO's (2602.04879), and
those that verl's documents name for the others.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlong:
    """DAPO's treatment of long answers (Yu et al. 2025, arXiv 2503.14476, section 3.4).

    An answer's reward falls linearly over its last ``buffer`` tokens before ``max_new_tokens``, by ``factor``
    at the end; 0 is off. ``mask`` leaves answers that were cut off out of the loss.
    """

    buffer: int = 0
    factor: float = 1.0
    mask: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGradient:
    """A complete policy gradient; the defaults are those of ``grpo``.

    The bounds are of the ratio of policy and sampler, of a sequence's mean ratio for gspo and geo-rs, and of
    the fall and the rise of a token's probability for dppo. None: the loss has no such bound.
    A wave is trained on ``epochs`` times, each time in ``minibatches`` optimizer steps of a part of its
    groups each; the sampler's probabilities stay those of the wave (PPO, arXiv 1707.06347, algorithm 1).
    """

    advantage: AdvantageSource = "std"
    loss: PolicyLoss = "is"
    aggregation: TokenAggregation = "token_mean"
    clip_low: float | None = None
    clip_high: float | None = None
    kl: KlPlace = "loss"
    overlong: Overlong = field(default_factory=Overlong)
    epochs: int = 1
    minibatches: int = 1

    @property
    def steps(self) -> int:
        """Return the most optimizer steps that a wave has."""
        return self.epochs * self.minibatches
