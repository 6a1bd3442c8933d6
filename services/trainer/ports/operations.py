"""Port of operations: their store."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from mint_common.claims import Claim
from mint_common.errors import MintError
from mint_common.ids import Digest, JobId, PolicyId, WaveId
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

    async def begin_read(self, policy_id: PolicyId, seq: int) -> None:
        """Count one more read of an operation that waits; durable when this returns."""
        ...

    async def end_read(self, policy_id: PolicyId, seq: int) -> None:
        """Forget the reads of an operation that waits."""
        ...

    async def wave_reads(self, wave_id: WaveId) -> int:
        """Return how many reads of a wave's records were begun since one ended."""
        ...

    async def begin_wave_read(self, wave_id: WaveId, *, now: float) -> None:
        """Count one more read of a wave's records; durable when this returns."""
        ...

    async def end_wave_read(self, wave_id: WaveId) -> None:
        """Forget the reads of a wave's records."""
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
        """Delete operations of sessions closed before a time, and waves and reads older than it.

        Only operations past their retention; each job's newest wave stays.
        """
        ...
