"""How far a job has come, read off its waves.

The reward of a wave is that of the revision which it was sampled at, not of the one that training on it gave:
the last revision of a job has no reward of its own yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mint_common.events import EvaluationMetric, EvaluationPlan
from mint_common.ids import Digest
from services.rollout.core.validation import best_score, scores_of
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


def progress_of(
    waves: Sequence[Wave], *, is_sampled: bool = True, plan: EvaluationPlan | None = None
) -> Progress:
    """Return the progress of a job with these waves, which are in the order of steps.

    With a plan the best revision is the one that it measured best. Without samples (SFT) rewards are those of
    reference answers: no revision is best by them.
    """
    rewards = [wave.reward_mean for wave in waves if wave.reward_mean is not None]
    sampled = best_revision(waves) if is_sampled else None
    return Progress(
        step=sum(wave.revision is not None for wave in waves),
        reward=rewards[-1] if rewards else None,
        best=sampled if plan is None else best_measured(plan.metric, waves),
        started_at=waves[0].requested_at if waves else None,
        trained_tokens=sum(wave.counts.trained_tokens for wave in waves if wave.revision is not None),
    )


def best_measured(metric: EvaluationMetric, waves: Sequence[Wave]) -> BestMeasured | None:
    """Return the revision that was measured best, the earliest of equals; None before the first score."""
    best = best_score(metric, scores_of(metric, waves))
    if best is None:
        return None
    return BestMeasured(
        digest=best.revision.digest,
        number=best.revision.number,
        step=best.step,
        metric=metric,
        value=best.value,
    )


def best_revision(waves: Sequence[Wave]) -> BestRevision | None:
    """Return the best revision that the waves sampled, the newest of equals; the bare base is none."""
    sampled: dict[Digest, list[Wave]] = {}
    for wave in waves:
        if wave.sampled is not None and wave.sampled_number is not None and wave.reward_mean is not None:
            sampled.setdefault(wave.sampled, []).append(wave)
    found = [_measured(own) for own in sampled.values()]
    return max(found, key=lambda one: (one.reward, one.step), default=None)


def _measured(waves: Sequence[Wave]) -> BestRevision:
    """Return a revision with the mean reward of the waves that sampled it."""
    last = waves[-1]
    assert last.sampled is not None, last
    assert last.sampled_number is not None, last
    rewards = [wave.reward_mean for wave in waves if wave.reward_mean is not None]
    return BestRevision(
        digest=last.sampled, number=last.sampled_number, reward=fmean(rewards), step=last.step
    )
