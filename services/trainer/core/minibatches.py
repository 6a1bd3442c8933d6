"""Parts of a wave's batch, each of which one optimizer step trains on.

A part has whole groups, so that advantages are those of the wave. Groups with rows are spread evenly, and so
are the others, which count in the divisor of their part. Every epoch has the same parts, as in TRL and verl.
"""

from dataclasses import replace

from services.trainer.core.batch import Batch, with_groups


def minibatch_count(batch: Batch, *, asked: int) -> int:
    """Return in how many parts a batch is trained on, so that each has rows."""
    return max(1, min(asked, len(_groups_with_rows(batch))))


def minibatch(batch: Batch, number: int, *, count: int) -> Batch:
    """Return a part of a batch, of ``count``; the whole one is the only part of itself."""
    if count == 1:
        return batch
    with_rows = _groups_with_rows(batch)
    ordered = sorted(batch.groups, key=lambda group: (group.number not in with_rows, group.number))
    own = ordered[number::count]
    numbers = {group.number for group in own}
    rows = tuple(row for row in batch.rows if row.episode is not None and row.episode.group in numbers)
    return with_groups(replace(batch, rows=rows), own)


def _groups_with_rows(batch: Batch) -> set[int]:
    return {row.episode.group for row in batch.rows if row.episode is not None}
