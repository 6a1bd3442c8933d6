"""Rank 0's view of a base that is spread over ranks: it scores like a base in one process.

Invariants: policies live at rank 0 only, whole, with their optimizers; ranks get their values in each
pass and return gradients. So checkpoints and exports are those of one rank, another rank's end loses nothing,
and ranks cannot diverge. One exchange runs at a time; a failed one is the last: the process must end, and the
group restarts.
"""
# ruff: noqa: N803  # tensors carry their shape in their name

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from mint_common.adapters_format.base_facts import BaseFacts
from services.trainer.adapters.distributed.orders import (
    Backward,
    Forward,
    LoraShape,
    Order,
    Pulse,
    ScoringInputs,
    Stop,
)
from services.trainer.adapters.distributed.passes import Passes
from services.trainer.adapters.distributed.ranks import Ranks
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.scoring import TokenScores
from services.trainer.core.lines import Line, widest
from services.trainer.core.ranks import RankFault, RankLost

_PULSES = 10
"""Number of messages that idle ranks get within their limit for rank 0's silence."""


class ShardedBase:
    """`ScoringBase` of rank 0. ``lost`` is called when the ranks no longer work together."""

    def __init__(
        self,
        passes: Passes,
        ranks: Ranks,
        *,
        lost: Callable[[RankLost], None],
        timeout_seconds: float,
    ) -> None:
        self.facts: BaseFacts = passes.base.facts
        self.microbatch_tokens = passes.base.microbatch_tokens
        # Rank 0 keeps the leaves here; every rank gets them with each pass.
        self.device = torch.device("cpu")
        self.rules = passes.base.rules
        self._tell_lost = lost
        self._lost: RankLost | None = None
        self._passes = passes
        self._ranks = ranks
        self._exchange = threading.Lock()
        self._tickets: WeakValueDictionary[int, _Ticket] = WeakValueDictionary()
        self._last = 0
        self._pulse_seconds = timeout_seconds / _PULSES
        self._closed = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._pulse.start()

    @property
    def logits_targets(self) -> int:
        """Return of how many targets the logits fit into rank 0's memory now."""
        return self._passes.base.logits_targets

    def score(
        self, lines: Sequence[Line], policies: Mapping[int, LoraTensors] | Sequence[LoraTensors] | None = None
    ) -> TokenScores:
        """Return the scores of the lines' targets, line after line. Raises RankFault, RankLost."""
        read = tuple(line.read() for line in lines)
        numbers = dict.fromkeys(line.policy for line in read)
        scoring = {} if policies is None else {number: policies[number] for number in numbers}
        leaves = [policy.leaf for policy in scoring.values()]
        shapes = {name: LoraShape(layout=one.layout, scale=one.scale) for name, one in scoring.items()}
        ticket = None
        if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
            self._last += 1
            ticket = self._tickets[self._last] = _Ticket(self._last)
        job = ScoringInputs(lines=read, width=widest(read))
        order = Forward(
            number=ticket.number if ticket else None,
            job=job,
            chunks=self._passes.chunks_of(job),
            policies=None if policies is None else shapes,
            open_passes=frozenset(self._tickets),
        )
        with self._said(order):
            scored = self._passes.score(order, [leaf.detach() for leaf in leaves])
        if ticket is None:
            return scored
        return replace(scored, logprobs_T=_Spread.apply(self, ticket, scored.logprobs_T, *leaves))

    def differentiate(self, number: int, gradient_T: Tensor) -> list[Tensor]:
        """Return the gradients of a pass's leaves, once. Raises RankFault, RankLost."""
        assert self._passes.holds(number), "a score gives its gradients once"
        order = Backward(number=number, targets=len(gradient_T), open_passes=frozenset(self._tickets))
        with self._said(order):
            return self._passes.differentiate(order, gradient_T.contiguous())

    def close(self) -> None:
        """Let the other ranks go, unless they are lost."""
        self._closed.set()
        self._pulse.join()
        with suppress(RankLost), self._said(Stop()):
            pass

    @contextmanager
    def _said(self, order: Order) -> Iterator[None]:
        """Give an order; whatever then goes wrong in this rank's part leaves the others in the middle."""
        with self._exchange:
            if self._lost is not None:
                raise RankLost(base=self.facts.name, problem=str(self._lost))
            self._lost = RankLost(base=self.facts.name, problem=f"{type(order).__name__} was broken off")
            try:
                self._ranks.say(order)
                yield
            except RankFault:  # the ranks have agreed about it
                self._lost = None
                raise
            except RuntimeError as error:  # what torch.distributed raises, and what a full device does
                self._lost = RankLost(base=self.facts.name, problem=_first_line(error))
                raise self._lost from error
            else:
                self._lost = None
            finally:
                if self._lost is not None:
                    self._tell_lost(self._lost)

    def _beat(self) -> None:
        """Send idle ranks a heartbeat."""
        while not self._closed.wait(self._pulse_seconds):
            try:
                with self._said(Pulse()):
                    pass
            except RankLost:
                return


class _Ticket:
    """A pass whose gradients may still be needed: as long as autograd refers to it."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Spread(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped for mypy here
    """Joins a pass over all ranks to the graph at rank 0."""

    @staticmethod
    def forward(
        ctx: Any, base: ShardedBase, ticket: _Ticket, logprobs_T: Tensor, *leaves: Tensor
    ) -> Tensor:  # torch's context object is untyped
        """Return the log-probabilities, which depend on the leaves."""
        del leaves
        ctx.base, ctx.ticket = base, ticket
        return logprobs_T.clone()

    @staticmethod
    def backward(ctx: Any, gradient_T: Tensor) -> tuple[Tensor | None, ...]:  # as above
        """Return the gradients of the leaves."""
        return (None, None, None, *ctx.base.differentiate(ctx.ticket.number, gradient_T))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
