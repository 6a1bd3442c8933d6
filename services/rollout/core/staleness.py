"""How far a job's samples lag behind the weights that they train, and what that costs. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from mint_common.ids import Digest
from services.rollout.core.wave import Wave

KL = ("sampler_kl", "lag_kl")
"""The trainer's k3 estimate of KL(sampler || policy) a token: of fresh samples, and of stale ones."""
SHARES = ("effective_sample_share", "masked_share")


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessRow:
    """The trained samples of one staleness: ``steps`` of a job, with ``tokens`` that a loss fell on.

    ``kl`` and the shares are means of the steps' metrics by their tokens, None where no step has them.
    """

    staleness: int
    steps: int
    tokens: int
    kl: float | None
    effective_sample_share: float | None
    masked_share: float | None


def staleness_of(waves: Sequence[Wave]) -> dict[int, int]:
    """Return by step how many steps older than the weights that it trains the sampling revision was.

    ``waves`` are all of a job, by step. A revision of before the job is as old as the job.
    """
    trained = dict[Digest, int]()
    found = {}
    for wave in waves:
        known = 0 if wave.sampled is None else trained.get(wave.sampled, 0)
        found[wave.step] = wave.step - 1 - known
        if wave.revision is not None:
            trained[wave.revision.digest] = wave.step
    return found


def by_staleness(waves: Sequence[Wave]) -> list[StalenessRow]:
    """Return a row for each staleness of the trained steps, the smallest first; ``waves`` as above."""
    lags = staleness_of(waves)
    groups = defaultdict[int, list[Wave]](list)
    for wave in waves:
        if wave.revision is not None:
            groups[lags[wave.step]].append(wave)
    return [_row(lag, groups[lag]) for lag in sorted(groups)]


def _row(lag: int, waves: Sequence[Wave]) -> StalenessRow:
    effective, masked = (_mean(waves, (name,)) for name in SHARES)
    return StalenessRow(
        staleness=lag,
        steps=len(waves),
        tokens=sum(wave.counts.trained_tokens for wave in waves),
        kl=_mean(waves, KL),
        effective_sample_share=effective,
        masked_share=masked,
    )


def _mean(waves: Sequence[Wave], names: Sequence[str]) -> float | None:
    """Return the mean of the first known of some metrics, weighted by trained tokens."""
    found = [
        (wave.counts.trained_tokens, value)
        for wave in waves
        if (value := _first(wave.metrics, names)) is not None
    ]
    total = sum(tokens for tokens, _ in found)
    return sum(tokens * value for tokens, value in found) / total if total else None


def _first(metrics: Mapping[str, float], names: Sequence[str]) -> float | None:
    known = (metrics[name] for name in names if isfinite(metrics.get(name, float("nan"))))
    return next(known, None)


def phase_seconds(wave: Wave) -> dict[str, float]:
    """Return the seconds of a step's ended phases: ``sampling``, ``waiting`` for the trainer, ``training``.

    Sampling has the rewards, training the export. The time between them, and after them until the revision
    is published, is waiting.
    """
    if wave.completed_at is None:
        return {}
    found = {"sampling": max(0.0, wave.completed_at - wave.requested_at)}
    if wave.published_at is None:
        return found
    since = max(0.0, wave.published_at - wave.completed_at)
    training = min(max(0.0, wave.metrics.get("seconds", 0.0)), since)
    return {**found, "waiting": since - training, "training": training}
