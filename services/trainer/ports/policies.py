"""The machine that works on policies over the resident base."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mint_common.adapters_format import AdapterFiles
from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.claims import RevisionRef
from mint_common.events import LoraSpec
from mint_common.ids import Digest, PolicyId, TenantId
from mint_common.training import CheckpointRecord, Distill, Distilled, Pass, Passed, Step, Stepped
from services.trainer.core.algorithms import WaveBatch
from services.trainer.core.operations import ExportLineage

Tier = Literal["device", "host"]
"""Where a policy in memory is; one that is in neither is restored from its snapshot and its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swaps:
    """What moving policies between device and host has cost since the start."""

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


class Policies(Protocol):
    """Policies over the resident base. Work runs one batch after another, never on the event loop."""

    @property
    def facts(self) -> BaseFacts:
        """Return the base's facts."""
        ...

    @property
    def layout(self) -> str:
        """Return how exports keep experts."""
        ...

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
        """Put a policy into memory from a snapshot, or as initialised, and keep it there until released.

        Raises CheckpointLost when the bytes do not fit it.
        """
        ...

    def release(self, policy_id: PolicyId) -> None:
        """Allow a policy to leave memory: its state is stored."""
        ...

    def keep(self, policy_id: PolicyId) -> None:
        """Take that back: the policy's state is about to change."""
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
        """Queue a pass behind what the policy has to do; every `begin_` keeps the order of its calls.

        ``alone`` keeps other policies out of its batch. A wave's pass that only measures is computed in runs
        of a bounded number of tokens, between which others have their turn; the policy's weights must not be
        changed until it is done.

        Raises NotFinite when the pass is refused: nothing is added to the gradient then. Raises NotResident
        when the policy has been dropped, which also happens to what is behind a fault of the machinery.
        """
        ...

    def begin_distill(
        self,
        policy_id: PolicyId,
        tenant_id: TenantId,
        work: Distill,
        teacher: LoraSpec,
        data: bytes,
        *,
        alone: bool = False,
    ) -> Awaitable[Distilled]:
        """Queue a distillation from the weights of a training checkpoint, whose LoRA is ``teacher``.

        Raises NotFinite, as a pass does, and CheckpointLost when the bytes do not fit the teacher. ``alone``
        is a pass's.
        """
        ...

    def begin_step(
        self,
        policy_id: PolicyId,
        tenant_id: TenantId,
        work: Step,
        *,
        alone: bool = False,
        needs_gradient: bool = False,
    ) -> Awaitable[Stepped]:
        """Queue an optimizer step. Raises NotFinite: the gradient is cleared, the weights are as before.

        Raises NoGradient where one that ``needs_gradient`` has none: the pass before it was refused.
        """
        ...

    def begin_copy(
        self, policy_id: PolicyId, tenant_id: TenantId, *, with_gradient: bool
    ) -> Awaitable[bytes]:
        """Queue a copy of the state, as bytes. Training goes on while it is written."""
        ...

    def begin_load(
        self, policy_id: PolicyId, tenant_id: TenantId, lora: LoraSpec, data: bytes, *, with_optimizer: bool
    ) -> Awaitable[int]:
        """Queue the replacing of the state by a checkpoint's; return its step, 0 without the optimizer.

        The gradient is cleared. Raises CheckpointLost when the bytes do not fit the policy.
        """
        ...

    def begin_export(
        self, policy_id: PolicyId, tenant_id: TenantId, after: ExportLineage
    ) -> Awaitable[StateExport]:
        """Queue an export of the weights."""
        ...

    def begin_clear(self, policy_id: PolicyId, tenant_id: TenantId) -> Awaitable[None]:
        """Queue the clearing of the gradient."""
        ...


class StoredStates(Protocol):
    """Training states made from what is stored."""

    async def at(self, revision: RevisionRef, lora: LoraSpec, data: bytes) -> bytes:
        """Return a checkpoint with the revision's weights, and the optimizer's state and step of ``data``.

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
