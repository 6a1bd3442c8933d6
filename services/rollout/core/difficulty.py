"""Tasks whose episodes all had the same reward, all right or all wrong, are drawn less often. Pure.

Such a group has no advantages, and a task that gave one probably gives one again. prime-rl pools tasks by
their last mean reward for the same reason, with a weight for each pool.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, islice

from mint_common.events import DifficultySampling
from mint_common.records import Group, rewards_differ
from services.rollout.core.environment import EnvironmentTask
from services.rollout.core.task import derive_seed
from services.rollout.core.wave import WaveCounts

CANDIDATES = 4
"""Tasks that are drawn for each one that a step samples."""
MEMORY_STEPS = 256
"""Steps after which an outcome is forgotten."""
_SEEDS = 1 << 31


def outcomes_of(tasks: Sequence[EnvironmentTask], groups: Sequence[Group | None]) -> dict[str, bool]:
    """Return by task whether the rewards of any of its groups differed; not of groups that failed."""
    found: dict[str, bool] = {}
    for task, group in zip(tasks, groups, strict=True):
        if group is not None:
            found[task.key] = found.get(task.key, False) or rewards_differ(group)
    return found


def remembered_steps(step: int, *, staleness: int) -> range:
    """Return the steps whose outcomes the draw of a step uses: those that are published whenever it is drawn.

    So the draw is the same if it is repeated, however far other waves are then.
    """
    last = step - 1 - staleness
    return range(max(1, last - MEMORY_STEPS + 1), last + 1)


def remembered(counts: Sequence[WaveCounts]) -> dict[str, bool]:
    """Return the newest outcome of each task of some waves, given in the order of their steps."""
    return {key: differed for each in counts for key, differed in each.differing.items()}


def candidates_of(n: int, rule: DifficultySampling | None) -> int:
    """Return how many tasks are drawn for ``n`` of a step."""
    return n if rule is None else CANDIDATES * n


def chosen(
    candidates: Sequence[EnvironmentTask],
    outcomes: Mapping[str, bool],
    rule: DifficultySampling,
    *,
    n: int,
    seed: int,
) -> list[EnvironmentTask]:
    """Return ``n`` of the candidates, a task a second time only if there are too few others.

    A task without differing rewards at its last draw has the weight ``least``, each other one 1: weighted
    sampling without replacement, by the largest u^(1/w) (Efraimidis and Spirakis 2006, algorithm A).
    """
    once = list({task.key: task for task in candidates}.values())

    def rank(task: EnvironmentTask) -> float:
        uniform = (derive_seed(seed, "difficulty", task.key) + 1) / _SEEDS
        weight = rule.least if outcomes.get(task.key) is False else 1.0
        return math.pow(uniform, 1.0 / weight)

    best = sorted(once, key=rank, reverse=True)[:n]
    return list(islice(cycle(best), n))
