"""Rollout's metrics at `/metrics`."""

from collections.abc import Iterable
from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from mint_common.algorithms import BUILT_IN, Algorithm
from mint_common.graders.grade import Fault
from mint_common.telemetry.series import begin

WAVES = Counter("mint_rollout_waves_total", "Waves whose record is stored", ["algorithm"])
WAVES_CANCELLED = Counter(
    "mint_rollout_waves_cancelled_total", "Waves that could not be completed; their job fails", ["algorithm"]
)
SAMPLES = Counter("mint_rollout_samples_total", "Samples in stored records", ["algorithm"])
GRADER_ERRORS = Counter(
    "mint_rollout_grader_errors_total", "Samples that a grader gave no reward, by what went wrong", ["kind"]
)
JOBS = Counter(
    "mint_rollout_jobs_total", "Jobs that have ended, by outcome: succeeded, failed, cancelled", ["outcome"]
)
JOBS_REVIVED = Counter(
    "mint_rollout_jobs_revived_total",
    "Times that the last events of a job without progress were published again",
)
EPISODE_LIMIT = Gauge(
    "mint_rollout_episode_limit",
    "Episodes of environments that may run at a time, by base: fewer while its engines' KV caches are full",
    ["base"],
)
REWARD_MEAN = Histogram(
    "mint_rollout_reward_mean",
    "Mean reward of a wave",
    ["algorithm"],
    buckets=(0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
)
SAMPLE_SECONDS = Histogram(
    "mint_rollout_sample_seconds",
    "Seconds to sample, score and store one wave",
    ["algorithm"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)

begin(GRADER_ERRORS, get_args(Fault))
begin(JOBS, ["succeeded", "failed", "cancelled"])


def begin_algorithms(algorithms: Iterable[Algorithm]) -> None:
    """Let the series of each algorithm begin at 0."""
    for series in (WAVES, WAVES_CANCELLED, SAMPLES, REWARD_MEAN, SAMPLE_SECONDS):
        begin(series, [algorithm.name for algorithm in algorithms])


begin_algorithms(BUILT_IN)


def observe_wave(algorithm: str, *, samples: int, reward_mean: float, seconds: float) -> None:
    """Count one recorded wave."""
    WAVES.labels(algorithm).inc()
    SAMPLES.labels(algorithm).inc(samples)
    REWARD_MEAN.labels(algorithm).observe(reward_mean)
    SAMPLE_SECONDS.labels(algorithm).observe(seconds)
