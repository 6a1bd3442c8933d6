"""Work on policies other than passes, and what is known of policies in memory."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from mint_common.adapters_format import AdapterFiles
from mint_common.events import LoraSpec
from mint_common.ids import Digest
from mint_common.training import Distill, Distilled, Step, Stepped
from services.trainer.core.operations import ExportLineage

T_co = TypeVar("T_co", covariant=True)

Tier = Literal["device", "host"]
"""Memory that holds a policy. A policy in neither is restored from its snapshot and its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swaps:
    """Total cost of moving policies between device and host since the start."""

    count: int
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateExport:
    """An adapter as it was after so many steps, the export that it comes after, and what building it took."""

    step: int
    parent: Digest | None
    adapter: AdapterFiles
    seconds: float = 0.0


class PolicyWork(Generic[T_co]):
    """Work on a policy other than a pass; the parameter is its result."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeStep(PolicyWork[Stepped]):
    """Take an optimizer step. Raises NotFinite: the gradient is cleared, the weights are as before.

    Raises NoGradient where one that ``needs_gradient`` has none: the pass before it was refused.
    """

    step: Step
    needs_gradient: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation(PolicyWork[Distilled]):
    """Distill from the weights of a training checkpoint, ``data``, whose LoRA is ``teacher``.

    Raises NotFinite, as a pass does, and CheckpointLost when the bytes do not fit the teacher.
    """

    distill: Distill
    teacher: LoraSpec
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(PolicyWork[bytes]):
    """Copy the state, as bytes. Training continues while the copy is written."""

    with_gradient: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportWeights(PolicyWork[StateExport]):
    """Export the weights after an earlier export. Training continues while the export is built."""

    after: ExportLineage


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace(PolicyWork[int]):
    """Replace the state by a checkpoint's, and clear the gradient; gives its step, 0 without the optimizer.

    Raises CheckpointLost when the bytes do not fit the policy.
    """

    lora: LoraSpec
    data: bytes
    with_optimizer: bool


@dataclass(frozen=True, slots=True)
class Clear(PolicyWork[None]):
    """Clear the gradient."""
