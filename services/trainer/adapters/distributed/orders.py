"""Commands of rank 0 to all ranks. They are values: the other ranks have no state but open passes.

``open_passes`` are those whose gradients rank 0 may still request; ranks drop all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.trainer.adapters.lora.tensors import Layout, plan_layout
from services.trainer.core.lines import LineTokens
from services.trainer.core.ranks import share_out


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraShape:
    """Shape of a policy's leaf; its values are sent separately."""

    layout: Layout
    scale: float

    def planned(self) -> Layout:
        """Return the layout as this process's one cached object."""
        return plan_layout((part.site for part in self.layout.parts[::2]), self.layout.rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringInputs:
    """Lines, and the targets that each of their positions is scored with: see `ScoringBase.score`."""

    lines: Sequence[LineTokens]
    width: int

    @property
    def targets(self) -> int:
        """Return the number of positions that are scored."""
        return sum(len(line.where_T) for line in self.lines)

    @property
    def extras(self) -> tuple[str, ...]:
        """Return the names of the additional scores of a target."""
        routes = ("routed_T", "off_route_T") if any(line.is_routed for line in self.lines) else ()
        hits = ("hit_T",) if any(line.counts_hits for line in self.lines) else ()
        return routes + hits

    def shares(self, ranks: int) -> "list[ScoringInputs]":
        """Return a part for each rank, some of which may have no line."""
        return [ScoringInputs(lines=part, width=self.width) for part in share_out(self.lines, ranks=ranks)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Score a job with the policies that its lines number, None: with the bare base.

    A pass with a number stays open. Each rank cuts the logits of its targets into ``chunks``.
    """

    number: int | None
    job: ScoringInputs
    chunks: int
    policies: dict[int, LoraShape] | None
    open_passes: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward:
    """Hand back the gradients of an open pass, given those of its ``targets`` log-probabilities."""

    number: int
    targets: int
    open_passes: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """A heartbeat of an idle rank 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Rank 0 shuts down."""


Order = Forward | Backward | Pulse | Stop
