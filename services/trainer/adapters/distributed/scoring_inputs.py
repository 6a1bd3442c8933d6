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
from services.trainer.adapters.model.scoring import TokenScores
from services.trainer.core.packing import PackedSequence
from services.trainer.core.ranks import share_out


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedInputs:
    """Rows behind their prompts, see `ScoringBase.score`."""

    lines: Sequence[PackedSequence]

    @property
    def targets(self) -> int:
        """Return the number of scores."""
        return sum(line.targets for line in self.lines)

    @property
    def routed(self) -> bool:
        """Return whether the scores come with routes."""
        return any(row.experts or row.prompt_experts for line in self.lines for row in line.rows)

    def shares(self, ranks: int) -> "list[PackedInputs]":
        """Return a part for each rank, some of which may have no line."""
        return [PackedInputs(lines=part) for part in share_out(self.lines, ranks=ranks)]

    def first_line(self) -> "PackedInputs":
        """Return the smallest part that can be computed."""
        return PackedInputs(lines=self.lines[:1])

    def run(self, base: ResidentBase, policies: Sequence[LoraTensors] | None) -> TokenScores:
        """Compute the scores."""
        return base.score(self.lines, policies)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetInputs:
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

    def shares(self, ranks: int) -> "list[TargetInputs]":
        """Return a part for each rank, some of which may have no line."""
        sizes = [len(part) for part in share_out(self.owner_B, ranks=ranks)]
        return [self._part(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]

    def first_line(self) -> "TargetInputs":
        """Return the smallest part that can be computed."""
        return self._part(0, 1)

    def run(self, base: ResidentBase, policies: Sequence[LoraTensors] | None) -> TokenScores:
        """Compute the scores."""
        owners = list(dict.fromkeys(self.owner_B))
        mix = [((policies or ())[owner], self.owner_B.count(owner)) for owner in owners]
        device = mix[0][0].leaf.device
        logprobs = base.target_logprobs(
            self.inputs_BL.to(device), self.where_T.to(device), self.targets_TK.to(device), mix
        )
        return TokenScores(logprobs_T=logprobs, routed_T=None, off_route_T=None)

    def _part(self, begin: int, end: int) -> "TargetInputs":
        longest = self.inputs_BL.shape[1]
        mine_T = (self.where_T >= begin * longest) & (self.where_T < end * longest)
        return TargetInputs(
            inputs_BL=self.inputs_BL[begin:end],
            where_T=self.where_T[mine_T] - begin * longest,
            targets_TK=self.targets_TK[mine_T],
            owner_B=self.owner_B[begin:end],
        )


ScoringInputs = PackedInputs | TargetInputs
