"""Draw distinct prompts of one split from a generator of candidates."""

from collections.abc import Iterator

from mint_common.errors import InvalidField
from mint_common.records import Prompt

MAX_MISSES = 2000
"""Candidates without a new prompt after which the split counts as exhausted."""


def draw_prompts(candidates: Iterator[Prompt | None], n: int, *, task: str) -> list[Prompt]:
    """Return the first ``n`` distinct candidates; when they run out, the same ones again in the same order.

    A candidate None belongs to the other split. Raises InvalidField when the split is empty.
    """
    drawn: dict[str, Prompt] = {}
    misses = 0
    while len(drawn) < n and misses < MAX_MISSES:
        candidate = next(candidates)
        if candidate is None or candidate.text in drawn:
            misses += 1
            continue
        drawn[candidate.text] = candidate
        misses = 0
    found = list(drawn.values())
    if n and not found:
        raise InvalidField(field="split", problem=f"task {task!r} has no prompts in this split")
    return [found[index % len(found)] for index in range(n)]
