"""How a step is cut into pieces that fit in memory and waste little."""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Cuttable(Protocol):
    """A line of whatever kind: read tokens, target tokens, and the policy that it is of."""

    @property
    def length(self) -> int:
        """Return the number of tokens that the model reads."""
        ...

    @property
    def targets(self) -> int:
        """Return the number of positions that the loss falls on."""
        ...

    @property
    def policy(self) -> int:
        """Return whose it is, numbered within the batch."""
        ...


L = TypeVar("L", bound=Cuttable)

MIN_FILL = 0.5
"""A line shorter than this share of a micro-batch's longest starts another: padding stays below it."""


def plan_microbatches(lines: Sequence[L], *, max_tokens: int, max_targets: int) -> tuple[tuple[L, ...], ...]:
    """Cut lines into micro-batches, longest first; a line that alone exceeds a limit gets one of its own.

    A micro-batch holds at most ``max_tokens`` padded tokens, which bounds activations, and ``max_targets``
    target tokens, which bounds logits (a row of the vocabulary each). Its lines are in the order of policies.
    """
    plan: list[list[L]] = []
    targets = 0
    for line in sorted(lines, key=lambda line: -line.length):
        if plan:
            longest = plan[-1][0].length
            full = (len(plan[-1]) + 1) * longest > max_tokens or targets + line.targets > max_targets
        if not plan or full or line.length < MIN_FILL * longest:
            plan.append([])
            targets = 0
        plan[-1].append(line)
        targets += line.targets
    return tuple(tuple(sorted(lines, key=lambda line: line.policy)) for lines in plan)
