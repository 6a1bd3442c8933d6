"""The progress of a job, from its waves.

The reward of a wave is that of the revision that it sampled, not of the one that training on it gave:
the last revision of a job has no reward of its own yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mint_common.events import EvaluationMetric
from mint_common.ids import Digest
from services.rollout.core.wave import Wave


@dataclass(frozen=True, slots=True, kw_only=True)
class BestRevision:
    """The sampled revision with the highest mean ``reward``; ``step`` is the last one that sampled it."""

    digest: Digest
    number: int
    reward: float
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BestMeasured:
    """The revision with the best ``value`` of its plan's metric, which ``step`` led to."""

    digest: Digest
    number: int
    step: int
    metric: EvaluationMetric
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``step`` counts finished steps; ``reward`` is the newest wave's; times are seconds since the epoch.

    ``trained_tokens`` are those of finished steps.
    """

    step: int = 0
    reward: float | None = None
    best: BestRevision | BestMeasured | None = None
    started_at: float | None = None
    trained_tokens: int = 0


def best_revision(waves: Sequence[Wave]) -> BestRevision | None:
    """Return the best revision that the waves sampled, the newest of equals; the bare base is none."""
    sampled: dict[Digest, list[tuple[int, int, float]]] = {}
    for wave in waves:
        if wave.sampled is not None and wave.sampled_number is not None and wave.reward_mean is not None:
            sampled.setdefault(wave.sampled, []).append((wave.sampled_number, wave.step, wave.reward_mean))
    found = []
    for digest, own in sampled.items():
        number, step, _ = own[-1]
        reward = fmean(reward for *_, reward in own)
        found.append(BestRevision(digest=digest, number=number, reward=reward, step=step))
    return max(found, key=lambda one: (one.reward, one.step), default=None)
