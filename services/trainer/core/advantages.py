"""Group-normalised advantages: how much better a sample did than the others of its prompt.

GRPO, Shao et al. 2024 (arXiv 2402.03300), section 4.1.2: A_i = (r_i - mean(r)) / (std(r) + eps).
"""

import statistics
from collections.abc import Sequence

STD_EPSILON = 1e-4


def group_advantages(rewards: Sequence[float]) -> tuple[float, ...] | None:
    """Return the advantages of one group, or None when every reward is the same and nothing can be learnt.

    ``std`` is the sample standard deviation (n - 1), as in TRL.
    """
    if len(rewards) < 2 or min(rewards) == max(rewards):
        return None
    mean = statistics.fmean(rewards)
    scale = statistics.stdev(rewards) + STD_EPSILON
    return tuple((reward - mean) / scale for reward in rewards)
