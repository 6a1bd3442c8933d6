"""Divide a base and a micro-batch over ranks.

Ranks are the processes that hold one base together. Rank 0 receives operations and holds every policy; the
others hold their part of the base and execute rank 0's commands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from mint_common.errors import MintError
from services.trainer.core.placement import ON_CPU, Placement

T = TypeVar("T")

Sharding = Literal["none", "data", "fsdp", "zero3", "tensor", "expert"]
SPLITS_LINES: frozenset[Sharding] = frozenset({"data", "fsdp", "zero3"})
"""Here each rank computes its own lines over the whole base; elsewhere all compute all lines over a part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRank:
    """A process's number among ``count`` ranks; ``local`` numbers it on its machine.

    ``launched``: torchrun has started them all, else rank 0 starts the others.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    launched: bool = False


ALONE = ProcessRank()


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSetup:
    """Start parameters of every rank of a base; ``threads`` are torch's.

    ``timeout_seconds``: how long a rank waits for one that hangs or starts slowly.
    """

    folder: Path
    sharding: Sharding = "none"
    placement: Placement = ON_CPU
    threads: int = 1
    timeout_seconds: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStart:
    """A rank that rank 0 starts on its machine; they meet at a port of the loopback address."""

    process: ProcessRank
    port: int
    setup: RankSetup

    def encoded(self) -> str:
        """Return it as an argument of a process."""
        return msgspec.json.encode(self, enc_hook=str).decode()


def read_rank_start(argument: str) -> RankStart:
    """Return what `RankStart.encoded` has encoded."""
    return msgspec.json.decode(argument, type=RankStart, dec_hook=lambda kind, value: kind(value))


class RankLost(MintError):
    """The ranks of base {base!r} no longer work together: {problem}"""

    code = "rank_lost"
    retryable = True
    http_status = 503


class RankFault(RuntimeError):
    """A rank could not compute its part of a pass; all ranks know, and go on with the next order."""


def share_out(things: Sequence[T], *, ranks: int) -> list[Sequence[T]]:
    """Return each rank's neighbouring things, in order; shares differ by one at most."""
    ends = [len(things) * rank // ranks for rank in range(ranks + 1)]
    return [things[begin:end] for begin, end in pairwise(ends)]


def own_range(count: int, *, rank: int, ranks: int) -> range:
    """Return which of ``count`` rows or experts a rank owns."""
    owned = share_out(range(count), ranks=ranks)[rank]
    assert isinstance(owned, range)
    return owned
