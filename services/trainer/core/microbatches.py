"""Cut a step into micro-batches that fit in memory with little padding."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from mint_common.adapters_format.base_facts import BaseFacts


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

FEWEST_TOKENS, MAX_TOKENS = 512, 4096
_ACTIVATION_BYTES = 256 << 20
MAX_ON_DEVICE = 65536
DEVICE_SHARE = 0.5
"""Share of a GPU's free memory for activations: the rest is for logits, gradients and the allocator."""

_LOGITS_BYTES = 256 << 20
_LOGITS_SHARE = 0.25
_LOGITS_COPIES = 4
"""Copies of the logits that are alive together: themselves, their log-softmax, and the gradients of
both."""
_FLOAT_BYTES = 4

MIN_FILL = 0.5
"""A line shorter than this share of a micro-batch's longest starts another: padding stays below it."""


def activation_bytes(facts: BaseFacts, item_bytes: int) -> int:
    """Return the estimated size of a token's activations, in numbers of ``item_bytes`` each.

    The estimate is what its linear modules read and write, all experts of a layer included.
    """
    dense = sum(map(sum, facts.modules.values()))
    routed = sum(
        experts.count * sum(map(sum, experts.projections.values())) for experts in facts.experts.values()
    )
    return item_bytes * (dense + routed)


def default_microbatch_tokens(facts: BaseFacts, *, item_bytes: int = 4, free_bytes: int | None = None) -> int:
    """Return the default padded tokens of a micro-batch: more for bases with small activations.

    With ``free_bytes`` of a GPU, as many as half of them hold.
    """
    return fitting_tokens(activation_bytes(facts, item_bytes), free_bytes=free_bytes)


def fitting_tokens(token_bytes: int, *, free_bytes: int | None = None) -> int:
    """Return how many tokens of so many bytes a micro-batch has; ``free_bytes`` as above."""
    limit = _ACTIVATION_BYTES if free_bytes is None else int(DEVICE_SHARE * free_bytes)
    fitting = limit // token_bytes
    return max(FEWEST_TOKENS, min(MAX_TOKENS if free_bytes is None else MAX_ON_DEVICE, fitting))


def fitting_targets(vocab_size: int, *, free_bytes: int | None = None) -> int:
    """Return of how many targets the logits are there at a time; ``free_bytes`` as above.

    On a GPU a power of two, so that a little more or less of free memory changes no shape.
    """
    row_bytes = _FLOAT_BYTES * vocab_size
    least = max(1, _LOGITS_BYTES // row_bytes)
    if free_bytes is None:
        return least
    fitting = int(_LOGITS_SHARE * max(0, free_bytes)) // (_LOGITS_COPIES * row_bytes)
    return 1 << max(1, fitting).bit_length() - 1


def plan_microbatches(lines: Sequence[L], *, max_tokens: int, max_targets: int) -> tuple[tuple[L, ...], ...]:
    """Cut lines into micro-batches, longest first; a line that alone exceeds a limit gets one of its own.

    A micro-batch holds at most ``max_tokens`` padded tokens, which bounds activations, and ``max_targets``
    target tokens, so that their logits (a row of the vocabulary each) are computed once. Its lines are in the
    order of policies.
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
