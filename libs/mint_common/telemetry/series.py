"""Series that are there from the start: the first change of one that was not is no increase to Prometheus."""

from collections.abc import Sequence
from itertools import product

from prometheus_client import Counter, Gauge, Histogram


def begin(metric: Counter | Gauge | Histogram, *values: Sequence[str]) -> None:
    """Make the series of a metric for every combination of its labels' values, in the labels' order."""
    for labels in product(*values):
        metric.labels(*labels)
