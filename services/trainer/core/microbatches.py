"""How a step is cut into pieces that fit in memory."""

from collections.abc import Sequence

from services.trainer.core.batch import Row


def plan_microbatches(
    rows: Sequence[Row], *, max_tokens: int, max_targets: int
) -> tuple[tuple[Row, ...], ...]:
    """Cut rows into micro-batches, longest first; a row that alone exceeds a limit gets one of its own.

    A micro-batch holds at most ``max_tokens`` padded tokens, which bounds activations, and ``max_targets``
    completion tokens, which bounds logits (a row of the vocabulary each).
    """
    plan: list[tuple[Row, ...]] = []
    current: list[Row] = []
    targets = 0
    for row in sorted(rows, key=lambda row: -row.length):
        padded = (len(current) + 1) * (current[0].length if current else row.length)
        if current and (padded > max_tokens or targets + len(row.tokens) > max_targets):
            plan.append(tuple(current))
            current, targets = [], 0
        current.append(row)
        targets += len(row.tokens)
    return (*plan, tuple(current)) if current else tuple(plan)
