"""What a step needs of a base, wherever the base's weights are. T = target tokens."""
# ruff: noqa: N803, N815  # tensors carry their shape in their name

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mint_common.adapters_format.base_facts import BaseFacts
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.core.packing import PackedSequence


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """Target tokens under a model.

    Where routes were recorded, ``routed_T`` is 0 for tokens without a usable one, and ``off_route_T`` the
    share of a token's recorded experts that the model's own routers would not take.
    """

    logprobs_T: Tensor
    routed_T: Tensor | None
    off_route_T: Tensor | None


class ScoringBase(Protocol):
    """A resident base in this process, or spread over several."""

    @property
    def facts(self) -> BaseFacts:
        """Return the base's facts."""
        ...

    @property
    def shares_prompts(self) -> bool:
        """Return whether rows may stand behind one copy of their prompt."""
        ...

    def logprobs(
        self, lines: Sequence[PackedSequence], policies: Sequence[LoraTensors] | None = None
    ) -> Tensor:
        """Return logp_T of the lines' target tokens: see `score`."""
        ...

    def score(
        self, lines: Sequence[PackedSequence], policies: Sequence[LoraTensors] | None = None
    ) -> TokenScores:
        """Return the scores of the lines' target tokens, row after row.

        ``policies`` are those that the lines number, and the lines are in their order; without them the base
        answers. Gradients flow into the policies' leaves, once a score.
        """
        ...

    def target_logprobs(
        self, inputs_BL: Tensor, where_T: Tensor, targets: Tensor, policies: Sequence[tuple[LoraTensors, int]]
    ) -> Tensor:
        """Return log p of the targets ``[T]`` or ``[T, K]`` at the positions ``where_T`` of the flat inputs.

        ``policies`` are those of the lines, in order, each with the number of its lines. Lines are padded on
        the right. Gradients flow as those of a score.
        """
        ...
