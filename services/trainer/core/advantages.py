"""Advantages of a group's episodes, and the rewards that they are computed from."""

import statistics
from collections.abc import Sequence

from mint_common.events.policy_gradient import AdvantageRule, Overlong

STD_EPSILON = 1e-4


def group_advantages(rewards: Sequence[float], rule: AdvantageRule = "std") -> tuple[float, ...] | None:
    """Return the advantages of one group, or None if nothing can be learnt from it: all rewards are the same.

    With rewards r_i of G episodes and their mean m:

    - std: (r_i - m) / (std(r) + eps), GRPO, Shao et al. 2024 (arXiv 2402.03300), section 4.1.2; ``std`` is
      the sample standard deviation (n - 1), as in TRL.
    - centre: r_i - m, Dr. GRPO, Liu et al. 2025 (arXiv 2503.20783).
    - rloo: G / (G - 1) (r_i - m), the reward minus the others' mean, Ahmadian et al. 2024 (arXiv 2402.14740).
    - maxrl: (r_i - m) / m for rewards of at least 0 (arXiv 2602.02710); None also if m is not above 0.
    """
    if len(rewards) < 2 or min(rewards) == max(rewards):
        return None
    mean = statistics.fmean(rewards)
    centred = [reward - mean for reward in rewards]
    match rule:
        case "std":
            scale = statistics.stdev(rewards) + STD_EPSILON
        case "centre":
            scale = 1.0
        case "rloo":
            scale = (len(rewards) - 1) / len(rewards)
        case "maxrl":
            if mean <= 0:
                return None
            scale = mean
    return tuple(advantage / scale for advantage in centred)


def overlong_punishment(tokens: int, overlong: Overlong, *, max_new_tokens: int) -> float:
    """Return what is added to the reward of an answer of so many tokens, 0 or less.

    DAPO's soft punishment, Yu et al. 2025 (arXiv 2503.14476), eq. 13: min(0, ((L_max - L_buffer) - L) /
    L_buffer) x factor, and not below -factor.
    """
    if not overlong.buffer:
        return 0.0
    over = (max_new_tokens - overlong.buffer - tokens) / overlong.buffer
    return overlong.factor * max(-1.0, min(0.0, over))
