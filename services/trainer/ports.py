"""What the trainer needs of the world: places for sessions and checkpoints, and the machine that steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from mint_common.adapters_format import AdapterFiles
from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.claims import Claim
from mint_common.events import LoraSpec, WaveCompleted
from mint_common.ids import Digest, JobId, PolicyId, TenantId, WaveId
from services.trainer.core.batch import Batch
from services.trainer.core.session import Session

Connection_contra = TypeVar("Connection_contra", contravariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """How to step: see `JobSpec`."""

    algorithm: str
    learning_rate: float
    kl_coefficient: float
    clip_norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """A policy after a wave: optimizer step, bytes of its checkpoint (None: nothing changed), export."""

    step: int
    checkpoint: bytes | None
    adapter: AdapterFiles
    metrics: Mapping[str, float]


Tier = Literal["device", "host"]
"""Where a policy in memory is; one that is in neither is restored from its checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swaps:
    """What moving policies between device and host has cost since the start."""

    count: int
    seconds: float
    bytes: int


class SessionStore(Protocol[Connection_contra]):
    """Session rows. Reads see committed rows only."""

    async def get(self, policy_id: PolicyId) -> Session | None:
        """Return a policy's session, or None if it was never trained."""
        ...

    async def trained_step(self, job_id: JobId) -> int:
        """Return the last step of a job that is trained, 0 for none."""
        ...

    async def list(self) -> list[Session]:
        """Return every session of this trainer's base, by policy id."""
        ...

    async def save(
        self, connection: Connection_contra, before: Session, after: Session, wave: WaveCompleted
    ) -> None:
        """Write a session and its trained wave within a transaction.

        Raises Unavailable when the row is no longer ``before``: another trainer was faster.
        """
        ...


class CheckpointStore(Protocol):
    """Resumable training state; the newest one of a policy is all that is kept."""

    async def put(self, policy_id: PolicyId, *, step: int, wave_id: WaveId, data: bytes) -> Claim:
        """Store a checkpoint. Idempotent: equal bytes have one address."""
        ...

    async def get(self, claim: Claim) -> bytes:
        """Return a checkpoint, checked. Raises BlobMissing, BlobCorrupt."""
        ...

    async def delete(self, claim: Claim) -> None:
        """Remove a checkpoint. Idempotent."""
        ...

    async def prune(self, policy_id: PolicyId, *, below_step: int) -> None:
        """Remove what a crash left of steps below one. Idempotent."""
        ...


class Policies(Protocol):
    """Policies over the resident base. Work runs one batch after another, never on the event loop."""

    @property
    def facts(self) -> BaseFacts:
        """Return the base's facts."""
        ...

    def holds(self, policy_id: PolicyId, checkpoint: Claim | None) -> bool:
        """Return whether the policy is in memory exactly as that checkpoint says (None: as initialised)."""
        ...

    async def restore(
        self, policy_id: PolicyId, lora: LoraSpec, *, checkpoint: Claim | None, data: bytes | None
    ) -> None:
        """Put a policy into memory from a checkpoint, or as its LoraSpec initialises it.

        Raises LoraInvalid when the spec does not fit the base, CheckpointLost when the bytes do not fit it.
        """
        ...

    def tiers(self) -> Mapping[PolicyId, Tier]:
        """Return where each policy in memory is."""
        ...

    def swaps(self) -> Swaps:
        """Return what moving policies has cost."""
        ...

    async def step(
        self,
        policy_id: PolicyId,
        batch: Batch,
        settings: StepSettings,
        *,
        tenant_id: TenantId,
        parent: Digest | None,
    ) -> Stepped:
        """Take one optimizer step and export. An empty batch leaves the weights and exports the same bytes.

        Policies that are ready at the same time may share a forward and backward pass; who else was in it
        changes a result by rounding only. Raises NotFinite. After any error, and after a cancellation, the
        policy is out of memory: its checkpoint is the truth.
        """
        ...
