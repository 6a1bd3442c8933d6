"""Create metric series at the start: Prometheus sees no increase in the first value of a new series."""

from collections.abc import Sequence
from itertools import product

from prometheus_client import Counter, Gauge, Histogram


def begin(metric: Counter | Gauge | Histogram, *values: Sequence[str]) -> None:
    """Make the series of a metric for every combination of its labels' values, in the labels' order."""
    for labels in product(*values):
        metric.labels(*labels)
