"""Ports of operations: the right to drive a base, and stores for operations and named checkpoints."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from mint_common.claims import Claim
from mint_common.errors import MintError
from mint_common.ids import Digest, JobId, PolicyId, TenantId
from mint_common.training import CheckpointRecord, CheckpointRef, PolicySummary
from services.trainer.core.operations import (
    FinishedOperation,
    NewOperation,
    Packed,
    Snapshot,
    StateKey,
    StoredOperation,
    TrainingSession,
)
from services.trainer.core.wave_operations import NewWave

Connection_contra = TypeVar("Connection_contra", contravariant=True)


class Lease(Protocol):
    """The right to commit results of a base's operations; one process has it at a time."""

    def held(self) -> AbstractAsyncContextManager[int]:
        """Wait for the lease and hold it; yields the token, which a commit proves it by.

        The lease of a process that is gone is free at once, that of one that only seems dead after a while.
        """
        ...

    async def renew(self, token: int) -> None:
        """Say that this process is alive. Raises Fenced when another has taken over, Unavailable."""
        ...


class OperationStore(Protocol[Connection_contra]):
    """Sessions and the operations that drive them. Reads see committed rows only.

    Writes for a holder of the lease raise Fenced when the token is no longer the newest; the transaction
    checks this.
    """

    async def add(
        self, token: int, operations: Sequence[NewOperation], *, is_managed: bool = False
    ) -> list[bool | MintError]:
        """Store operations of clients' sessions, or of managed ones, durable when this returns.

        Return for each whether it is new, or why it was not stored.

        A repetition is not an error and changes nothing. OperationConflict: another operation has its number;
        NotFound: there is no session (of this tenant); SessionClosed; PolicyTaken.
        """
        ...

    async def check(self, operation: NewOperation) -> bool | MintError:
        """Return what `add` would, as things are now, and store nothing."""
        ...

    async def add_within(self, connection: Connection_contra, token: int, wave: NewWave) -> None:
        """Store the operations of a wave in a transaction of the ledger; its policy's session with the first.

        Raises PolicyTaken when a client trains the policy, Unavailable when the numbers are taken.
        """
        ...

    async def taken_step(self, job_id: JobId) -> int:
        """Return the last step of a job whose wave was stored and not refused, 0 for none."""
        ...

    async def managed_sessions(self) -> list[TrainingSession]:
        """Return the sessions of managed jobs over this base, by policy id."""
        ...

    async def result(self, policy_id: PolicyId, seq: int) -> Packed | None:
        """Return the outcome of a client's operation, None while it is not finished.

        Raises NotFound when there is none, or when it was so long ago that its result is forgotten.
        """
        ...

    async def results(self, policy_id: PolicyId, seqs: Sequence[int]) -> list[Packed]:
        """Return the outcomes of finished operations by number; deleted ones are missing.

        Results are never deleted while a wave's export waits.
        """
        ...

    async def session(self, policy_id: PolicyId) -> TrainingSession | None:
        """Return a policy's session, open or closed."""
        ...

    async def unfinished(self, managed: PolicyId | None = None) -> list[StoredOperation]:
        """Return the operations that wait, of one managed policy or all of the base's, by arrival.

        They come without their payloads, but for small ones.
        """
        ...

    async def payload(self, policy_id: PolicyId, seq: int) -> Packed:
        """Return the payload of an operation that waits."""
        ...

    async def executed_after(self, policy_id: PolicyId, position: int) -> list[StoredOperation]:
        """Return the operations executed after a position, in the order of execution."""
        ...

    async def needed_passes(self, policy_id: PolicyId) -> list[Packed]:
        """Return a policy's passes over records that wait, or that a replay would do again."""
        ...

    async def finish(self, token: int, finished: Sequence[FinishedOperation]) -> list[Claim]:
        """Commit results of operations, all or nothing; return claims that are unused now.

        AlreadyExists: a checkpoint's name is taken.
        """
        ...

    async def finish_within(
        self, connection: Connection_contra, token: int, finished: Sequence[FinishedOperation]
    ) -> list[Claim]:
        """Do so in a transaction of the ledger."""
        ...

    async def count_attempts(self, token: int, operations: Sequence[tuple[PolicyId, int]]) -> None:
        """Count one more attempt of operations that wait; durable when this returns."""
        ...

    async def take_back_attempts(self, operations: Sequence[tuple[PolicyId, int]]) -> None:
        """Count one attempt less of operations that wait, whichever trainer has the lease now."""
        ...

    async def put_snapshot(self, token: int, snapshot: Snapshot) -> list[Claim]:
        """Make a newer snapshot the session's, delete the payloads that it covers; return unused blobs."""
        ...

    async def held_revisions(self, *, now: float, after: str = "", limit: int | None = None) -> list[Digest]:
        """Return the revisions that open sessions of the base exported last, or checkpoints are; in order."""
        ...

    async def orphans(self, keys: Sequence[StateKey]) -> list[str]:
        """Return which keys, of policies of this base, no row names."""
        ...

    async def forget_results(self, *, before: float, limit: int) -> tuple[int, list[Claim]]:
        """Delete results that were finished before a time; return their number, and unused blobs."""
        ...

    async def prune(self, *, before: float) -> None:
        """Delete operations of sessions closed before a time, and waves older than it.

        Only operations past their retention; each job's newest wave stays.
        """
        ...


class CheckpointRows(Protocol):
    """Checkpoints that clients named. Expired ones are as good as deleted."""

    async def get(self, ref: CheckpointRef, *, now: float) -> CheckpointRecord:
        """Return one. Raises NotFound."""
        ...

    async def page(
        self, tenant_id: TenantId, *, policy_id: PolicyId | None, limit: int, after: str | None, now: float
    ) -> list[CheckpointRecord]:
        """Return a tenant's, newest first, those after a cursor."""
        ...

    async def summaries(self, policies: Sequence[PolicyId], *, now: float) -> dict[PolicyId, PolicySummary]:
        """Return what lists show of policies, of those that clients train or that have checkpoints."""
        ...

    async def copy(
        self,
        source: CheckpointRef,
        target: CheckpointRef,
        *,
        tenant_id: TenantId,
        expires_at: float | None,
        now: float,
    ) -> CheckpointRecord:
        """Give a checkpoint's bytes a second row, a tenant's; one that has them there already is returned.

        Raises NotFound, also for one that the tenant may not read; AlreadyExists when other bytes have the
        name.
        """
        ...

    async def expire(self, ref: CheckpointRef, *, expires_at: float | None, now: float) -> CheckpointRecord:
        """Set when one expires. Raises NotFound."""
        ...

    async def publish(self, ref: CheckpointRef, *, is_public: bool, now: float) -> CheckpointRecord:
        """Set whether other tenants may read one. Raises NotFound."""
        ...

    async def delete(self, ref: CheckpointRef, *, now: float) -> list[Claim]:
        """Delete one; return its bytes if no other row uses them. Raises NotFound."""
        ...

    async def delete_expired(self, *, now: float, limit: int) -> list[Claim]:
        """Delete expired checkpoints; return the bytes that no other row uses."""
        ...
