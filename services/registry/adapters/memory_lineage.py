"""Relatives of a revision among rows in memory."""

from collections.abc import Sequence

from mint_common.catalog import RevisionRecord
from services.registry.core.lineage import Reach, Relative


def relatives(rows: Sequence[RevisionRecord], number: int, reach: Reach) -> list[Relative]:
    """Return the ancestors and descendants of a row within reach, nearest first."""
    itself = rows[number - 1]
    found: list[Relative] = []
    for sign, steps in ((-1, reach.ancestors), (1, reach.descendants)):
        near = [itself]
        for distance in range(1, steps + 1):
            near = [row for row in rows if row.number != number and _is_next(row, near, sign)]
            if not near or len(found) > len(rows):  # parents that name each other
                break
            found += [Relative(revision=row, distance=sign * distance) for row in near]
    return sorted(found, key=lambda each: (abs(each.distance), each.distance, each.revision.number))


def _is_next(row: RevisionRecord, near: Sequence[RevisionRecord], sign: int) -> bool:
    if sign < 0:
        return any(row.digest == each.parent for each in near)
    return any(row.parent == each.digest for each in near)
