"""What is to be scored, as a value that can be shared out over ranks by lines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.model.scoring import TokenScores
from services.trainer.core.lines import LineTokens
from services.trainer.core.ranks import share_out


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
        """Return the names of what the scores of a target come with."""
        routes = ("routed_T", "off_route_T") if any(line.is_routed for line in self.lines) else ()
        hits = ("hit_T",) if any(line.counts_hits for line in self.lines) else ()
        return routes + hits

    def shares(self, ranks: int) -> "list[ScoringInputs]":
        """Return a part for each rank, some of which may have no line."""
        return [ScoringInputs(lines=part, width=self.width) for part in share_out(self.lines, ranks=ranks)]

    def first_line(self) -> "ScoringInputs":
        """Return the smallest part that can be computed."""
        return ScoringInputs(lines=self.lines[:1], width=self.width)

    def run(self, base: ResidentBase, policies: Mapping[int, LoraTensors] | None) -> TokenScores:
        """Compute the scores."""
        return base.score(self.lines, policies, width=self.width)
