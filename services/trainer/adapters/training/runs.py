"""Work that is computed in runs, so that a thread which does it may do other work in between."""

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Runs = Generator[int, None, T]
"""Yields how many tokens each run has read; closing it takes back what it has done so far."""


def complete(runs: Runs[T]) -> T:
    """Do all runs, one after another."""
    while True:
        try:
            next(runs)
        except StopIteration as ended:
            result: T = ended.value
            return result
