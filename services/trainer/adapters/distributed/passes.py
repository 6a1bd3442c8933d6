"""A rank's part of a forward and backward pass; every rank, 0 included, runs this code in step.

Invariants: rank 0's gradient of a policy is that of the whole micro-batch over the whole base. A rank's
separate results (its lines, its slices, its experts) are summed; results that every rank computes alike are
counted once, at rank 0. Where ranks hold the whole base, a rank's failure (its memory is full) is an
error of the pass that all of them raise; elsewhere the others are in the middle of an exchange with it, and
the ranks are lost. X = rows of scores, T = target tokens.
"""
# ruff: noqa: N803, N806, N815  # tensors carry their shape in their name

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from services.trainer.adapters.distributed.orders import Backward, Forward, ScoringInputs
from services.trainer.adapters.distributed.ranks import Ranks
from services.trainer.adapters.lora.mixes import WHOLE
from services.trainer.adapters.lora.tensors import Layout, LoraTensors
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.model.scoring import TokenScores
from services.trainer.core.ranks import RankFault

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """An open pass: what this rank computed, of which leaves, and which of all targets those are."""

    logprobs_T: Tensor
    policies: Sequence[LoraTensors]
    begin: int
    counts: bool


class Passes:
    """The open passes of one rank over its part of the base."""

    def __init__(
        self, base: ResidentBase, ranks: Ranks, *, splits_lines: bool, has_whole_base: bool = False
    ) -> None:
        self.base = base
        self._ranks = ranks
        self._splits_lines = splits_lines
        self._has_whole_base = has_whole_base
        self._open: dict[int, _Pass] = {}
        self._shared = {slot.name for slot in base.slots if slot.share is not WHOLE}

    def holds(self, number: int) -> bool:
        """Return whether a pass is open."""
        return number in self._open

    def chunks_of(self, job: ScoringInputs) -> int:
        """Return into how many chunks the rank with the most targets cuts their logits."""
        parts = job.shares(self._ranks.count) if self._splits_lines else [job]
        return self.base.chunks_of(max(part.targets for part in parts))

    def score(self, order: Forward, leaves: Sequence[Tensor] = ()) -> TokenScores:
        """Compute this rank's part; rank 0 gives the leaves and gets the scores of all lines.

        Raises RankFault.
        """
        self._forget(order.open_passes)
        policies = self._policies(order, leaves)
        begin, job = self._own(order.job)
        # A rank without a line of its own still takes part in gathering the base's weights.
        counts = job.targets > 0
        lines = job.lines if counts else order.job.lines[:1]

        def computed() -> TokenScores:
            with torch.set_grad_enabled(order.number is not None):
                return self.base.score(lines, policies, width=job.width, chunks=order.chunks)

        scored = self._together(computed)
        if order.number is not None:
            self._open[order.number] = _Pass(
                logprobs_T=scored.logprobs_T,
                policies=[*(policies or {}).values()],
                begin=begin,
                counts=counts,
            )
        return (
            self._gather(order.job, scored)
            if self._splits_lines
            else scored.mapped(lambda one: one.detach().cpu())
        )

    def differentiate(self, order: Backward, gradient_T: Tensor | None = None) -> list[Tensor]:
        """Close a pass; rank 0 gives the gradients of the targets and gets those of the leaves, flat.

        Raises RankFault.
        """
        self._forget(order.open_passes | {order.number})
        one = self._open.pop(order.number)
        shape = (order.targets, *one.logprobs_T.shape[1:])
        flat_T = None if gradient_T is None else gradient_T.flatten()
        gradient_T = self._ranks.hand_out(flat_T, math.prod(shape)).view(shape)
        own_T = gradient_T[one.begin :][: len(one.logprobs_T)] if one.counts else None
        start_T = torch.zeros_like(one.logprobs_T) if own_T is None else own_T
        self._together(lambda: one.logprobs_T.backward(start_T))
        flat = torch.cat([self._gradient(policy, counts=one.counts) for policy in one.policies])
        self._ranks.sum_up(flat)
        return list(flat.cpu().split([policy.layout.size for policy in one.policies]))

    def _together(self, compute: Callable[[], T]) -> T:
        """Compute something that every rank computes at the same time. Raises RankFault when one cannot."""
        if not self._has_whole_base:
            return compute()
        done: list[T] = []
        problem = ""
        try:
            done.append(compute())
        except (RuntimeError, MemoryError) as error:
            problem = f"{type(error).__name__}: {error}".partition("\n")[0]
            _log.warning("rank cannot compute its part", extra={"rank": self._ranks.rank, "problem": problem})
        # Past the handler: an error that is still handled holds what the computation had in memory.
        failed = self._ranks.failed(here=not done)
        if failed is None:
            return done[0]
        raise RankFault(problem or f"rank {failed} could not compute its part")

    def _forget(self, kept: frozenset[int]) -> None:
        for number in self._open.keys() - kept:
            del self._open[number]

    def _policies(self, order: Forward, leaves: Sequence[Tensor]) -> dict[int, LoraTensors] | None:
        """Return the policies with leaves of this rank's own, equal to rank 0's."""
        if order.policies is None:
            return None
        sizes = [shape.layout.size for shape in order.policies.values()]
        flat = self._ranks.hand_out(torch.cat(list(leaves)) if leaves else None, sum(sizes))
        return {
            number: LoraTensors(
                layout=shape.planned(),
                scale=shape.scale,
                leaf=leaf.clone().requires_grad_(order.number is not None),
            )
            for (number, shape), leaf in zip(order.policies.items(), flat.split(sizes), strict=True)
        }

    def _own(self, job: ScoringInputs) -> tuple[int, ScoringInputs]:
        """Return the number of targets before this rank's part, and that part."""
        if not self._splits_lines:
            return 0, job
        shares = job.shares(self._ranks.count)
        before = shares[: self._ranks.rank]
        return sum(share.targets for share in before), shares[self._ranks.rank]

    def _gather(self, job: ScoringInputs, scored: TokenScores) -> TokenScores:
        """Return at rank 0 the scores of the whole job, elsewhere those of its own part."""
        widths = [share.targets for share in job.shares(self._ranks.count)]
        own = widths[self._ranks.rank]
        logprobs_T = scored.logprobs_T.detach()[:own]
        count = math.prod(logprobs_T.shape[1:])
        nothing_T = logprobs_T.new_zeros(own)
        extras = [getattr(scored, name) for name in job.extras]
        rows_XT = torch.cat(
            [
                logprobs_T.reshape(own, count).T,
                *((nothing_T if one is None else one[:own])[None] for one in extras),
            ]
        )
        whole_XT = self._ranks.gather(rows_XT, widths)
        if whole_XT is None:
            return scored.mapped(lambda one: one.detach().cpu())
        whole_XT = whole_XT.cpu()
        whole_T = whole_XT[:count].T.reshape(-1, *logprobs_T.shape[1:])
        return TokenScores(logprobs_T=whole_T, **dict(zip(job.extras, whole_XT[count:], strict=True)))

    def _gradient(self, policy: LoraTensors, *, counts: bool) -> Tensor:
        """Return this rank's part of a leaf's gradient."""
        gradient = policy.leaf.grad
        if gradient is None or not counts:
            return torch.zeros_like(policy.leaf)
        if not self._splits_lines and not self._ranks.leads:
            self._clear_alike(policy.layout, gradient)
        return gradient

    def _clear_alike(self, layout: Layout, gradient: Tensor) -> None:
        """Clear what rank 0 has computed too."""
        for part, view in zip(layout.parts, layout.cut(gradient), strict=True):
            if part.site.module not in self._shared:
                view.zero_()
