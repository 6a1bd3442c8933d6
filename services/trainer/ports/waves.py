"""What waves need: stores for their sessions and for the newest checkpoint of each policy."""

from typing import Protocol, TypeVar

from mint_common.claims import Claim, RevisionRef
from mint_common.events import LoraSpec, WaveCompleted
from mint_common.ids import JobId, PolicyId, WaveId
from services.trainer.core.session import Session

Connection_contra = TypeVar("Connection_contra", contravariant=True)


class SessionStore(Protocol[Connection_contra]):
    """Session rows. Reads see committed rows only."""

    async def get(self, policy_id: PolicyId) -> Session | None:
        """Return a policy's session, or None if it was never trained.

        Raises PolicyTaken when operations train it.
        """
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

        Raises Unavailable when the row is no longer ``before``: another trainer was faster. Raises
        PolicyTaken when operations train the policy by now.
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


class RevisionStates(Protocol):
    """Training states that begin at a published revision."""

    async def at(self, revision: RevisionRef, lora: LoraSpec, data: bytes | None) -> tuple[int, bytes]:
        """Return step and bytes of a checkpoint with the revision's weights.

        The optimizer's moments and the step are those of the checkpoint ``data``, fresh ones without. Raises
        RevisionForeign when the revision is not of this LoRA shape or its bytes cannot be read.
        """
        ...
