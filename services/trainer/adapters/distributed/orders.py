"""What rank 0 asks of all ranks. Orders are values: the other ranks keep no state but open passes.

``open_passes`` are those that rank 0 may still ask the gradients of; ranks forget all others.
"""

from dataclasses import dataclass

from services.trainer.adapters.distributed.scoring_inputs import ScoringInputs
from services.trainer.adapters.lora.tensors import Layout, LoraTensors, plan_layout


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraShape:
    """What a policy's leaf looks like; its values travel beside the order."""

    layout: Layout
    scale: float

    def planned(self) -> Layout:
        """Return the layout as this process's one cached object."""
        return plan_layout((part.site for part in self.layout.parts[::2]), self.layout.rank)


def shape_of(policy: LoraTensors) -> LoraShape:
    """Return the shape of a policy."""
    return LoraShape(layout=policy.layout, scale=policy.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Score a job with the policies that its lines number, None: with the bare base.

    The pass is kept open if it has a number.
    """

    number: int | None
    job: ScoringInputs
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
