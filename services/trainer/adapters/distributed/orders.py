"""What rank 0 asks of all ranks. Orders are values: the other ranks keep no state but open passes.

``open_passes`` are those that rank 0 may still ask the gradients of; ranks forget all others.
"""

from dataclasses import dataclass

from services.trainer.adapters.distributed.jobs import Job
from services.trainer.adapters.lora.tensors import Layout, LoraTensors, plan_layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a policy's leaf looks like; its values travel beside the order."""

    layout: Layout
    scale: float

    def planned(self) -> Layout:
        """Return the layout, the one object that stands for it in this process."""
        return plan_layout((part.site for part in self.layout.parts[::2]), self.layout.rank)


def shape_of(policy: LoraTensors) -> Shape:
    """Return the shape of a policy."""
    return Shape(layout=policy.layout, scale=policy.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Score a job with policies, None: with the bare base; keep the pass open if it has a number."""

    number: int | None
    job: Job
    policies: tuple[Shape, ...] | None
    open_passes: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Differentiate:
    """Hand back the gradients of an open pass, given those of its ``targets`` log-probabilities."""

    number: int
    targets: int
    open_passes: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """Rank 0 is there, and has nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Rank 0 leaves in order."""


Order = Score | Differentiate | Pulse | Stop
