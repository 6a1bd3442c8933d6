"""Cut a step into micro-batches that fit in memory with little padding."""

from collections.abc import Sequence
from dataclasses import dataclass
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
_LONG_BYTES = 1 << 30
MAX_ON_DEVICE = 65536
DEVICE_SHARE = 0.5
"""Share of a GPU's free memory for activations: the rest is for logits, gradients and the allocator."""

_LOGITS_BYTES = 256 << 20
_LOGITS_SHARE = 0.25
LOGITS_COPIES = 4
"""Copies of the logits that are alive together: themselves, their log-softmax, and the gradients of
both."""
_FLOAT_BYTES = 4

MIN_FILL = 0.5
"""A line shorter than this share of a micro-batch's longest starts another: padding stays below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenNumbers:
    """The numbers per token in a forward pass: what the linear modules of all layers read and write.

    ``width`` is a layer's input. Of routed experts, the ones that a token passes through count.
    """

    read: int
    written: int
    layers: int
    width: int

    def kept_bytes(self, item_bytes: int, *, recomputed: bool) -> int:
        """Return the bytes per token that the backward pass stores, in numbers of ``item_bytes`` each.

        LoRA computes in float32, so the inputs of a narrower base are stored a second time. ``recomputed``:
        all layers but one store only their input. Within 15 % of autograd's saved tensors
        (tests/unit/trainer/test_kept_bytes.py).
        """
        wide = _FLOAT_BYTES * self.read if item_bytes < _FLOAT_BYTES else 0
        kept = item_bytes * (self.read + self.written) + wide
        return item_bytes * self.layers * self.width + kept // self.layers if recomputed else kept


def token_numbers(facts: BaseFacts, *, layers: int, width: int, picked: int) -> TokenNumbers:
    """Return the numbers per token of a base; a token passes through ``picked`` of a layer's experts."""
    shapes = [*facts.modules.values()]
    for experts in facts.experts.values():
        shapes += [*experts.projections.values()] * min(picked, experts.count)
    return TokenNumbers(
        read=sum(inputs for inputs, _ in shapes),
        written=sum(outputs for _, outputs in shapes),
        layers=layers,
        width=width,
    )


def fitting_tokens(token_bytes: int, *, free_bytes: int | None = None) -> int:
    """Return the default padded tokens of a micro-batch, of so many bytes each.

    With ``free_bytes`` of a GPU, as many as half of them hold.
    """
    limit = _ACTIVATION_BYTES if free_bytes is None else int(DEVICE_SHARE * free_bytes)
    fitting = limit // token_bytes
    return max(FEWEST_TOKENS, min(MAX_TOKENS if free_bytes is None else MAX_ON_DEVICE, fitting))


def longest_kept(token_bytes: int) -> int:
    """Return the most tokens of a line on a CPU whose activations, of so many bytes each, are stored.

    A longer one is a micro-batch of its own, in less memory and a quarter more time.
    """
    return max(FEWEST_TOKENS, _LONG_BYTES // token_bytes)


def fitting_targets(vocab_size: int, *, free_bytes: int | None = None) -> int:
    """Return of how many targets the logits are there at a time; ``free_bytes`` as above.

    On a GPU a power of two, so that a little more or less of free memory changes no shape.
    """
    row_bytes = _FLOAT_BYTES * vocab_size
    least = max(1, _LOGITS_BYTES // row_bytes)
    if free_bytes is None:
        return least
    fitting = int(_LOGITS_SHARE * max(0, free_bytes)) // (LOGITS_COPIES * row_bytes)
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
