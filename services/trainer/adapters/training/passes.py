"""Forward and backward passes of several policies at once: any token loss, sums over micro-batches.

Invariants: a pass adds its whole gradient to its policy's or nothing; a fault of one pass is that
pass's result, and the others' gradients are as if it had not been there; computed alone, a pass adds the same
bits regardless of other work (tests/unit/trainer/test_passes.py, test_batched_steps.py).
T = target positions of a micro-batch, K = targets of a position.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

import logging
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter

import torch
from torch import Tensor

from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.training.pass_sum import NumberedLine, PassResult, PassSum, PassWork
from services.trainer.adapters.training.runs import Runs, complete
from services.trainer.core.microbatches import plan_microbatches
from services.trainer.core.refusals import NotFinite

_log = logging.getLogger(__name__)
_PLACE = attrgetter("policy", "number", "index")
"""Place of a line in a micro-batch."""


def run_passes(
    base: ScoringBase, works: Sequence[PassWork], *, max_tokens: int
) -> list[PassResult | NotFinite]:
    """Compute passes, add gradients, and return the result of each. Passes of one policy are neighbours."""
    return complete(pass_runs(base, works, max_tokens=max_tokens))


def pass_runs(
    base: ScoringBase, works: Sequence[PassWork], *, max_tokens: int
) -> Runs[list[PassResult | NotFinite]]:
    """Do so in runs of a micro-batch each, between which the leaves may be replaced by their like.

    Until the last run the leaves' gradients are those of these passes alone.
    """
    loras = {id(work.lora): work.lora for work in works if work.backward}
    held = {key: lora.leaf.grad for key, lora in loras.items()}
    for lora in loras.values():
        lora.leaf.grad = None
    try:
        sums = yield from _compute(base, works, max_tokens=max_tokens)
    except GeneratorExit:
        for key, lora in loras.items():
            lora.leaf.grad = held[key]
        raise
    again: set[int] = set()
    for key, lora in loras.items():
        leaf = lora.leaf
        own = [one for one in sums if id(one.work.lora) == key]
        if leaf.grad is not None and not bool(leaf.grad.isfinite().all()):
            own[-1].check("gradient", math.nan)
        if any(one.refusal for one in own):
            leaf.grad = held[key]
            again |= {key} if len(own) > 1 else set()
        else:
            leaf.grad = _added(held[key], leaf.grad)
    return [_alone(base, one, max_tokens) if id(one.work.lora) in again else one.result() for one in sums]


def _added(before: Tensor | None, more: Tensor | None) -> Tensor | None:
    return before if more is None else more if before is None else before + more


def _alone(base: ScoringBase, spoilt: PassSum, max_tokens: int) -> PassResult | NotFinite:
    """Compute a pass again whose neighbours of the same policy may have spoilt its gradient."""
    if not spoilt.work.backward:
        return spoilt.result()
    (result,) = run_passes(base, [spoilt.work], max_tokens=max_tokens)
    return result


def _compute(base: ScoringBase, works: Sequence[PassWork], *, max_tokens: int) -> Runs[list[PassSum]]:
    sums = [PassSum(work) for work in works]
    max_targets = base.logits_targets
    lines = list(_numbered(works))
    for backward in (True, False):
        chosen = [line for line in lines if works[line.number].backward is backward]
        for batch in plan_microbatches(chosen, max_tokens=max_tokens, max_targets=max_targets):
            parts = [sorted(batch, key=_PLACE)]
            while parts:
                part = parts.pop()
                if not _fits(base, sums, part, backward=backward):
                    parts += [part[len(part) // 2 :], part[: len(part) // 2]]
                    continue
                yield sum(line.length for line in part)
    return sums


def _fits(
    base: ScoringBase, sums: Sequence[PassSum], lines: Sequence[NumberedLine], *, backward: bool
) -> bool:
    """Add a micro-batch; return False, and add nothing, if the device's memory holds fewer lines.

    Raises torch.OutOfMemoryError for a single line.
    """
    before = _Before([sums[number] for number in dict.fromkeys(line.number for line in lines)])
    try:
        with torch.set_grad_enabled(backward):
            loss = _microbatch(base, sums, lines)
        if backward and loss is not None:
            loss.backward()
    except torch.OutOfMemoryError:
        if len(lines) == 1:
            raise
    else:
        before.add()
        return True
    # Past the handler: an error that is still handled holds what the computation had in memory.
    before.restore()
    torch.cuda.empty_cache()
    _log.warning("micro-batch does not fit into memory: halved", extra={"lines": len(lines)})
    return False


class _Before:
    """The sums and gradients of some passes before a micro-batch, whose own gradients begin at none."""

    def __init__(self, sums: Sequence[PassSum]) -> None:
        leaves = {id(one.work.lora): one.work.lora.leaf for one in sums}
        self._held = [(leaf, leaf.grad) for leaf in leaves.values()]
        self._restores = [one.saved() for one in sums]
        for leaf, _ in self._held:
            leaf.grad = None

    def add(self) -> None:
        """Add the micro-batch's gradients to those before."""
        for leaf, gradient in self._held:
            if gradient is not None:
                leaf.grad = gradient if leaf.grad is None else gradient.add_(leaf.grad)

    def restore(self) -> None:
        """Forget the micro-batch."""
        for leaf, gradient in self._held:
            leaf.grad = gradient
        for restore in self._restores:
            restore()


def _numbered(works: Sequence[PassWork]) -> Iterator[NumberedLine]:
    policies: dict[int, int] = {}
    for number, work in enumerate(works):
        policy = policies.setdefault(id(work.lora), len(policies))
        for index, line in enumerate(work.lines):
            yield NumberedLine(
                policy=policy, number=number, index=index, line=line, counts_hits=work.counts_hits
            )


def _microbatch(base: ScoringBase, sums: Sequence[PassSum], lines: Sequence[NumberedLine]) -> Tensor | None:
    """Return the loss of a micro-batch, None if there is none that is finite.

    The lines of a refused pass stay where they are: a batch of another shape would round the others' numbers
    otherwise.
    """
    if all(sums[line.number].refusal for line in lines):
        return None
    scored = base.score(lines, {line.policy: sums[line.number].work.lora for line in lines})
    base_T = None
    if any(sums[line.number].work.reads_base for line in lines):
        with torch.no_grad():
            base_T = base.score(lines).logprobs_T
    losses, begin = [], 0
    for number, group in groupby(lines, lambda line: line.number):
        own = list(group)
        span = slice(begin, begin + sum(line.targets for line in own))
        part = scored.mapped(itemgetter(span))
        losses.append(sums[number].add(own, part, None if base_T is None else base_T[span]))
        begin = span.stop
    # One policy's infinity times another's zero would be NaN: what is not finite stays out of the sum.
    finite = [loss for loss in losses if loss is not None]
    return torch.stack(finite).sum() if finite else None
