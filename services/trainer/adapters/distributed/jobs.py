"""What is to be scored, as a value that can be shared out over ranks by lines.

B = lines, L = the longest, T = target tokens or positions, K = targets of a position.
"""
# ruff: noqa: N806, N815  # tensors carry their shape in their name

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.model.scoring import Scored
from services.trainer.core.lines import Line
from services.trainer.core.ranks import share_out


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesJob:
    """Rows behind their prompts, see `ScoringBase.score`."""

    lines: Sequence[Line]

    @property
    def targets(self) -> int:
        """Return the number of scores."""
        return sum(line.targets for line in self.lines)

    @property
    def routed(self) -> bool:
        """Return whether the scores come with routes."""
        return any(row.experts or row.prompt_experts for line in self.lines for row in line.rows)

    def shares(self, ranks: int) -> "list[LinesJob]":
        """Return a part for each rank, some of which may have no line."""
        return [LinesJob(lines=part) for part in share_out(self.lines, ranks=ranks)]

    def first_line(self) -> "LinesJob":
        """Return the smallest part that can be computed."""
        return LinesJob(lines=self.lines[:1])

    def run(self, base: ResidentBase, policies: Sequence[LoraTensors] | None) -> Scored:
        """Compute the scores."""
        return base.score(self.lines, policies)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetsJob:
    """Tensors of plain lines, see `ScoringBase.target_logprobs`; ``owner_B`` numbers each line's policy."""

    inputs_BL: Tensor
    where_T: Tensor
    targets_TK: Tensor
    owner_B: tuple[int, ...]

    @property
    def targets(self) -> int:
        """Return the number of scores."""
        return len(self.where_T)

    @property
    def routed(self) -> bool:
        """Return whether the scores come with routes."""
        return False

    def shares(self, ranks: int) -> "list[TargetsJob]":
        """Return a part for each rank, some of which may have no line."""
        sizes = [len(part) for part in share_out(self.owner_B, ranks=ranks)]
        return [self._part(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]

    def first_line(self) -> "TargetsJob":
        """Return the smallest part that can be computed."""
        return self._part(0, 1)

    def run(self, base: ResidentBase, policies: Sequence[LoraTensors] | None) -> Scored:
        """Compute the scores."""
        owners = list(dict.fromkeys(self.owner_B))
        mix = [((policies or ())[owner], self.owner_B.count(owner)) for owner in owners]
        device = mix[0][0].leaf.device
        logprobs = base.target_logprobs(
            self.inputs_BL.to(device), self.where_T.to(device), self.targets_TK.to(device), mix
        )
        return Scored(logprobs_T=logprobs, routed_T=None, off_route_T=None)

    def _part(self, begin: int, end: int) -> "TargetsJob":
        longest = self.inputs_BL.shape[1]
        mine_T = (self.where_T >= begin * longest) & (self.where_T < end * longest)
        return TargetsJob(
            inputs_BL=self.inputs_BL[begin:end],
            where_T=self.where_T[mine_T] - begin * longest,
            targets_TK=self.targets_TK[mine_T],
            owner_B=self.owner_B[begin:end],
        )


Job = LinesJob | TargetsJob
