"""How far a job has come, read off its waves.

The reward of a wave is that of the revision which it was sampled at, not of the one that training on it gave:
the last revision of a job has no reward of its own yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

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
class Progress:
    """``step`` counts finished steps; ``reward`` is the newest wave's; times are seconds since the epoch."""

    step: int
    reward: float | None
    best: BestRevision | None
    started_at: float | None


def progress_of(waves: Sequence[Wave], *, is_sampled: bool = True) -> Progress:
    """Return the progress of a job with these waves, which are in the order of steps.

    Without samples (SFT) rewards are those of reference answers: no revision is best.
    """
    rewards = [wave.reward_mean for wave in waves if wave.reward_mean is not None]
    return Progress(
        step=sum(wave.revision is not None for wave in waves),
        reward=rewards[-1] if rewards else None,
        best=best_revision(waves) if is_sampled else None,
        started_at=waves[0].requested_at if waves else None,
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
