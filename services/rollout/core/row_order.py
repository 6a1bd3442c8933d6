"""The rows of a job's step: a pure function, so that a killed job continues with the same rows.

A row's number is its place, from 0, among the lines of its file that are not blank.
"""

import numpy as np
from numpy.typing import NDArray

from services.rollout.core.task import derive_seed

RowNumbers = NDArray[np.int64]
RowKeys = NDArray[np.uint64]
"""A number for each row of a file, drawn from its canonical bytes: equal rows have equal keys."""


def held_out(keys: RowKeys, share: float) -> NDArray[np.bool_]:
    """Return which rows are held out: the ``share`` of all with the least keys, and at least one.

    Equal rows are on the same side, so there may be more, up to all of them.
    """
    count = max(1, int(share * len(keys)))
    is_held: NDArray[np.bool_] = keys <= np.partition(keys, count - 1)[count - 1]
    return is_held


def shuffled(rows: RowNumbers, seed: int) -> RowNumbers:
    """Return the rows in an order that depends on nothing but their number and the seed."""
    # Philox's raw stream is the same in every release of numpy; a Generator's permutations need not be.
    drawn = np.random.Philox(key=seed).random_raw(len(rows))
    return rows[np.argsort(drawn, kind="stable")]


def rows_of_step(rows: RowNumbers, *, seed: int, epochs: int, step: int, rows_per_step: int) -> RowNumbers:
    """Return the rows of a step, which counts from 1, in the order in which they are drawn.

    Each epoch draws each row once, in its own order; a step may take the end of one and the beginning
    of the next. The step in which the last epoch ends takes no more; a later one draws from a further
    epoch.
    """
    begin, end, total = (step - 1) * rows_per_step, step * rows_per_step, len(rows) * epochs
    if begin < total:
        end = min(end, total)
    parts = [
        shuffled(rows, derive_seed(seed, "rows", epoch))[max(0, begin - start) : end - start]
        for epoch in range(begin // len(rows), (end - 1) // len(rows) + 1)
        for start in [epoch * len(rows)]
    ]
    return np.concatenate(parts)


def validation_rows(rows: RowNumbers, *, seed: int, most: int) -> RowNumbers:
    """Return the rows that a job is measured on, the same at every step: at most so many, by number."""
    return np.sort(shuffled(rows, derive_seed(seed, "validation"))[:most])
