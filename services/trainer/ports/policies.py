"""The machine that works on policies over the resident base."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from mint_common.adapters_format import AdapterFiles
from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.claims import RevisionRef
from mint_common.events import LoraSpec
from mint_common.ids import Digest, PolicyId, TenantId
from mint_common.training import CheckpointRecord, Distill, Distilled, Pass, Passed, Step, Stepped
from services.trainer.core.operations import ExportLineage
from services.trainer.core.wave_batch import WaveBatch

T = TypeVar("T")
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


class Policies(Protocol):
    """Policies over the resident base. Work runs one batch after another, never on the event loop."""

    facts: BaseFacts
    layout: str
    """Layout of experts in exports."""

    def tiers(self) -> Mapping[PolicyId, Tier]:
        """Return where each policy in memory is."""
        ...

    def swaps(self) -> Swaps:
        """Return what moving policies has cost."""
        ...

    def has(self, policy_id: PolicyId) -> bool:
        """Return whether the policy is in memory, or at work."""
        ...

    async def admit(self, policy_id: PolicyId, lora: LoraSpec, *, data: bytes | None) -> None:
        """Put a policy into memory from a snapshot, or as initialised, and protect it until released.

        Raises CheckpointLost when the bytes do not fit it.
        """
        ...

    def release(self, policy_id: PolicyId) -> None:
        """Allow a policy to leave memory: its state is stored."""
        ...

    def keep(self, policy_id: PolicyId) -> None:
        """Protect the policy again: its state is about to change."""
        ...

    def forget(self, policy_id: PolicyId) -> None:
        """Drop a policy from memory."""
        ...

    def forget_all(self) -> None:
        """Drop every policy: their states may be another trainer's now."""
        ...

    def begin_pass(
        self, policy_id: PolicyId, tenant_id: TenantId, work: Pass | WaveBatch, *, alone: bool = False
    ) -> Awaitable[Passed]:
        """Queue a pass after the policy's earlier work, in the order of the calls of this and of `begin`.

        ``alone`` excludes other policies from its batch. A pass larger than a batch is computed in runs of
        one micro-batch, between which other policies run; cancelling ends it there, and the gradient is as it
        was before.

        Raises NotFinite when the pass is refused: it adds nothing to the gradient. Raises NotResident
        when the policy has been dropped, which also happens to work queued after a machine fault.
        """
        ...

    def begin(
        self, policy_id: PolicyId, tenant_id: TenantId, work: PolicyWork[T], *, alone: bool = False
    ) -> Awaitable[T]:
        """Queue other work, as a pass is queued, in runs also; also raises the errors of the work's class."""
        ...


class StoredStates(Protocol):
    """Training states from storage."""

    async def at(self, revision: RevisionRef, lora: LoraSpec, data: bytes, *, resets_moments: bool) -> bytes:
        """Return a checkpoint with the revision's weights and the step of ``data``, and its moments or none.

        Raises RevisionForeign when the revision is not of this LoRA shape or its bytes cannot be read.
        """
        ...

    async def mix(
        self, lora: LoraSpec, records: Sequence[CheckpointRecord], coefficients: Sequence[float]
    ) -> bytes:
        """Return a training checkpoint of that shape with the sum of the checkpoints' LoRA weights.

        Sampler checkpoints serve as well as training checkpoints. Raises CheckpointLost when one cannot be
        read, or has another shape.
        """
        ...
