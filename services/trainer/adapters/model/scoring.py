"""The base as a training step uses it, for any placement of its weights. T = target positions."""
# ruff: noqa: N815  # tensors carry their shape in their name

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from mint_common.adapters_format.base_facts import BaseFacts
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.core.layer_rules import LayerRules
from services.trainer.core.lines import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """Targets under a model: ``logprobs_T`` is ``[T]``, or ``[T, K]`` with several targets per position.

    Where routes were recorded, ``routed_T`` is 0 for tokens without a usable one, and ``off_route_T`` the
    share of a token's recorded experts that the model's own routers would not choose. If a line requests
    it, ``hit_T`` is 1 for targets that are the model's most likely token, else 0.
    """

    logprobs_T: Tensor
    routed_T: Tensor | None = None
    off_route_T: Tensor | None = None
    hit_T: Tensor | None = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "TokenScores":
        """Return the scores with every tensor changed alike."""
        tensors = {each.name: getattr(self, each.name) for each in fields(self)}
        return TokenScores(**{name: None if one is None else change(one) for name, one in tensors.items()})


class ScoringBase(Protocol):
    """A resident base in this process, or spread over several."""

    @property
    def facts(self) -> BaseFacts:
        """Return the base's facts."""
        ...

    @property
    def device(self) -> torch.device:
        """Return where leaves and scores are."""
        ...

    @property
    def microbatch_tokens(self) -> int:
        """Return the default padded tokens of a micro-batch."""
        ...

    @property
    def logits_targets(self) -> int:
        """Return of how many targets the logits fit into memory now; those of more are computed in chunks."""
        ...

    @property
    def rules(self) -> LayerRules:
        """Return what its layers allow."""
        ...

    def score(
        self, lines: Sequence[Line], policies: Mapping[int, LoraTensors] | Sequence[LoraTensors] | None = None
    ) -> TokenScores:
        """Return the scores of the lines' targets, line after line.

        ``policies`` are those that the lines number, and the lines are in their order; without them the base
        answers. Where one line has several targets a position, all have as many: ``[T, K]``, filled up with
        token 0. Gradients flow into the policies' leaves, once a score.
        """
        ...
