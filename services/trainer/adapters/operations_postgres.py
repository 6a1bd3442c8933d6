"""Operations and their sessions in Postgres, in the schema ``trainer``.

Invariant: a write for a trainer also checks, in its transaction, that the pool has the base's lease and the
trainer the policies. A take-over waits for such a transaction: a fenced trainer commits nothing.
"""

from collections.abc import Sequence

import asyncpg
import msgspec

from mint_common.claims import Claim
from mint_common.errors import MintError, NotFound, Unavailable
from mint_common.ids import BaseName, Digest, JobId, PolicyId, TenantId
from mint_common.runtime.periodic import PRUNED_AT_ONCE, prune_rows
from mint_common.runtime.postgres import from_row
from mint_common.runtime.postgres_errors import PostgresConnection, acquired
from mint_common.training import OperationConflict, PolicyTaken, SessionClosed
from services.trainer.adapters import operation_statements as statements
from services.trainer.adapters.checkpoint_rows_postgres import put_checkpoint
from services.trainer.adapters.operation_rows import claims_of, stored_operation
from services.trainer.core.operations import (
    Fenced,
    FinishedOperation,
    NewOperation,
    Packed,
    Snapshot,
    StateKey,
    StoredOperation,
    TrainingSession,
    writer_of,
)
from services.trainer.core.pool import Holder, NotHeld
from services.trainer.core.wave_operations import NewWave

_SMALL_BYTES = 4096
"""Maximum size of a payload that is read together with the waiting rows: a step, an operation of a wave."""


class PostgresOperations:
    """Sessions and the operations that drive them. Reads see committed rows only.

    Writes for a holder raise Fenced when another pool has the lease, or another trainer a policy of them;
    the transaction checks this.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, base: BaseName) -> None:
        self._pool = pool
        self._base = base

    async def add(
        self, holder: Holder, operations: Sequence[NewOperation], *, is_managed: bool = False
    ) -> list[bool | MintError]:
        """Store operations of clients' sessions, or of managed ones, durable when this returns.

        Return for each whether it is new, or why it was not stored.

        A repetition is not an error and changes nothing, also when its operation's row is deleted.
        OperationConflict: another operation has its number;
        NotFound: there is no session (of this tenant); SessionClosed; PolicyTaken; NotHeld.
        """
        plain = [one for one in operations if one.opens is None]
        outcomes: dict[int, bool | MintError] = {}
        for one in operations:
            if one.opens is not None:
                outcomes[id(one)] = await self._open(holder, one)
        if plain:
            async with acquired(self._pool) as connection:
                outcomes |= await self._add(connection, holder, plain, is_managed=is_managed)
        return [outcomes[id(one)] for one in operations]

    async def _open(self, holder: Holder, operation: NewOperation) -> bool | MintError:
        assert operation.opens is not None
        async with acquired(self._pool) as connection, connection.transaction():
            await connection.execute(
                statements.OPEN,
                operation.policy_id,
                operation.tenant_id,
                operation.opens.base,
                msgspec.to_builtins(operation.opens.lora),
                operation.opens.metadata,
                operation.submitted_at,
                False,
                holder.member,
            )
            return (await self._add(connection, holder, [operation]))[id(operation)]

    async def add_within(self, connection: PostgresConnection, holder: Holder, wave: NewWave) -> None:
        """Store the operations of a wave in a transaction of the ledger; its policy's session with the first.

        Raises PolicyTaken when a client trains the policy, Unavailable when the numbers are taken.
        """
        await connection.execute(
            statements.OPEN,
            wave.policy_id,
            wave.tenant_id,
            wave.base,
            msgspec.to_builtins(wave.lora),
            {},
            wave.submitted_at,
            True,
            holder.member,
        )
        outcomes = await self._add(connection, holder, wave.stored(), is_managed=True)
        for outcome in outcomes.values():
            if isinstance(outcome, MintError) and not isinstance(outcome, OperationConflict):
                raise outcome
            if outcome is not True:
                problem = f"another wave of policy {wave.policy_id} was faster"
                raise Unavailable(what="the training session", problem=problem)
        query = "INSERT INTO waves (wave_id, policy_id, job_id, job_step) VALUES ($1, $2, $3, $4)"
        await connection.execute(query, wave.wave_id, wave.policy_id, wave.job_id, wave.job_step)

    async def _add(
        self,
        connection: PostgresConnection,
        holder: Holder,
        operations: Sequence[NewOperation],
        *,
        is_managed: bool = False,
    ) -> dict[int, bool | MintError]:
        # Of several that come together with one number, the first has it.
        firsts = {_key(one): one for one in reversed(operations)}
        sent = [one for one in operations if firsts[_key(one)] is one]
        row = await connection.fetchrow(
            statements.ADD,
            self._base,
            holder.pool,
            [one.policy_id for one in sent],
            [one.seq for one in sent],
            [one.tenant_id for one in sent],
            [one.kind for one in sent],
            [one.digest for one in sent],
            [one.payload.data for one in sent],
            [one.payload.is_claim for one in sent],
            [one.submitted_at for one in sent],
            is_managed,
            holder.member,
        )
        assert row is not None
        if not row["fences"]:
            raise Fenced(base=self._base)
        added = {tuple(number) for number in row["added"]}
        outcomes: dict[int, bool | MintError] = {}
        for one in operations:
            is_new = firsts[_key(one)] is one and _key(one) in added
            why_not = is_new or await self._why_not(connection, one, is_managed=is_managed)
            is_elsewhere = why_not is True and not is_new
            outcomes[id(one)] = NotHeld(policy_id=one.policy_id) if is_elsewhere else why_not
        return outcomes

    async def _why_not(
        self, connection: PostgresConnection, operation: NewOperation, *, is_managed: bool
    ) -> bool | MintError:
        row = await connection.fetchrow(statements.WHY_NOT, operation.policy_id, operation.seq)
        if row is None or row["tenant_id"] != operation.tenant_id:
            return NotFound(kind="training session", name=operation.policy_id)
        if row["is_managed"] is not is_managed:
            return PolicyTaken(policy_id=operation.policy_id, by=writer_of(is_managed=row["is_managed"]))
        if row["digest"] == operation.digest:
            return False
        if row["digest"] is not None:
            return OperationConflict(policy_id=operation.policy_id, seq=operation.seq)
        if row["is_forgotten"]:
            return False
        return row["closed_at"] is None or SessionClosed(policy_id=operation.policy_id)

    async def seconds(self, tenant_id: TenantId, *, now: float) -> float:
        """Return the seconds of trainers that a tenant's clients have taken since midnight UTC."""
        return float(await self._pool.fetchval(statements.SECONDS, tenant_id, now))

    async def check(self, operation: NewOperation) -> bool | MintError:
        """Return what `add` would, as things are now, and store nothing."""
        async with acquired(self._pool) as connection:
            return await self._why_not(connection, operation, is_managed=False)

    async def result(self, policy_id: PolicyId, seq: int) -> Packed | None:
        """Return the outcome of a client's operation, None while it is not finished.

        Raises NotFound when there is none, or when it was so long ago that its result is forgotten.
        """
        row = await self._pool.fetchrow(statements.RESULT, policy_id, seq)
        if row is None or (row["finished_at"] is not None and row["result"] is None):
            raise NotFound(kind="operation", name=f"{policy_id} {seq}")
        if row["finished_at"] is None:
            return None
        return Packed(data=row["result"], is_claim=row["result_is_claim"])

    async def results(self, policy_id: PolicyId, seqs: Sequence[int]) -> list[Packed]:
        """Return the outcomes of finished operations by number; deleted ones are missing.

        Results are never deleted while a wave's export waits.
        """
        rows = await self._pool.fetch(statements.RESULTS, policy_id, list(seqs))
        return [Packed(data=row["result"], is_claim=row["result_is_claim"]) for row in rows]

    async def taken_step(self, job_id: JobId) -> int:
        """Return the last step of a job whose wave was stored and not refused, 0 for none."""
        query = "SELECT coalesce(max(job_step), 0) FROM waves WHERE job_id = $1"
        return int(await self._pool.fetchval(query, job_id))

    async def managed_sessions(self) -> list[TrainingSession]:
        """Return the sessions of managed jobs over this base, by policy id."""
        query = f"{statements.SESSIONS} WHERE base = $1 AND is_managed ORDER BY policy_id"
        return [from_row(row, TrainingSession) for row in await self._pool.fetch(query, self._base)]

    async def session(self, policy_id: PolicyId) -> TrainingSession | None:
        """Return a policy's session, open or closed."""
        query = f"{statements.SESSIONS} WHERE policy_id = $1 AND base = $2"
        row = await self._pool.fetchrow(query, policy_id, self._base)
        return None if row is None else from_row(row, TrainingSession)

    async def unfinished(
        self, policies: Sequence[PolicyId], *, is_managed: bool = False
    ) -> list[StoredOperation]:
        """Return the operations of policies that wait, by arrival; ``is_managed``: of managed ones only.

        They come without their payloads, but for small ones.
        """
        values = list(policies), self._base, _SMALL_BYTES, is_managed
        rows = await self._pool.fetch(statements.UNFINISHED, *values)
        return [stored_operation(row) for row in rows]

    async def payload(self, policy_id: PolicyId, seq: int) -> Packed:
        """Return the payload of an operation that waits."""
        query = "SELECT payload, payload_is_claim FROM operations WHERE policy_id = $1 AND seq = $2"
        row = await self._pool.fetchrow(query, policy_id, seq)
        assert row is not None, (policy_id, seq)
        return Packed(data=row["payload"], is_claim=row["payload_is_claim"])

    async def executed_after(self, policy_id: PolicyId, position: int) -> list[StoredOperation]:
        """Return the operations executed after a position, in the order of execution."""
        return [
            stored_operation(row)
            for row in await self._pool.fetch(statements.EXECUTED_AFTER, policy_id, position)
        ]

    async def needed_passes(self, policy_id: PolicyId) -> list[Packed]:
        """Return a policy's passes over records that wait, or that a replay would do again."""
        rows = await self._pool.fetch(statements.NEEDED_PASSES, policy_id)
        return [Packed(data=row["payload"], is_claim=row["payload_is_claim"]) for row in rows]

    async def finish(self, holder: Holder, finished: Sequence[FinishedOperation]) -> list[Claim]:
        """Commit results of operations, all or nothing; return claims that are unused now.

        AlreadyExists: a checkpoint's name is taken.
        """
        async with acquired(self._pool) as connection:
            if not any(one.has_more for one in finished):
                await self._finish(connection, holder, finished)
                return []
            async with connection.transaction():
                return await self.finish_within(connection, holder, finished)

    async def finish_within(
        self, connection: PostgresConnection, holder: Holder, finished: Sequence[FinishedOperation]
    ) -> list[Claim]:
        """Commit with a transaction of the ledger."""
        await self._finish(connection, holder, finished)
        return [claim for one in finished for claim in await self._finish_more(connection, one)]

    async def _finish(
        self, connection: PostgresConnection, holder: Holder, finished: Sequence[FinishedOperation]
    ) -> None:
        last = {one.policy_id: one for one in finished}.values()
        row = await connection.fetchrow(
            statements.FINISH,
            self._base,
            holder.pool,
            [one.policy_id for one in finished],
            [one.seq for one in finished],
            [one.position for one in finished],
            [one.is_refused for one in finished],
            [one.result.data for one in finished],
            [one.result.is_claim for one in finished],
            [one.finished_at for one in finished],
            [one.policy_id for one in last],
            [one.step for one in last],
            [one.position for one in last],
            [one.finished_at for one in last],
            [one.seconds for one in finished],
            holder.member,
        )
        assert row is not None
        if not row["fences"]:
            raise Fenced(base=self._base)
        assert row["done"] == len(finished), (row, finished)

    async def _finish_more(self, connection: PostgresConnection, one: FinishedOperation) -> list[Claim]:
        unused: list[Claim] = []
        if one.checkpoint is not None:
            unused += await put_checkpoint(connection, one.checkpoint, replaces=one.replaces)
        if one.snapshot is not None:
            unused += await self._put_snapshot(connection, one.snapshot)
        if one.lineage is not None:
            query = "UPDATE training SET digest = $2, parent = $3 WHERE policy_id = $1"
            await connection.execute(query, one.policy_id, one.lineage.digest, one.lineage.parent)
        if one.refuses is not None:
            await connection.execute("DELETE FROM waves WHERE wave_id = $1", one.refuses)
        if one.closes:
            unused += await self._close(connection, one)
        return unused

    async def _close(self, connection: PostgresConnection, one: FinishedOperation) -> list[Claim]:
        """Close the session: nothing is restored later, so neither snapshot nor payloads are needed."""
        old = await connection.fetchval(statements.CLOSE, one.policy_id, one.finished_at)
        covered = await connection.fetch(statements.COVERED, one.policy_id, one.position)
        return [*claims_of(covered), *([] if old is None else [msgspec.convert(old, Claim)])]

    async def count_attempts(self, holder: Holder, operations: Sequence[tuple[PolicyId, int]]) -> None:
        """Count one more attempt of operations that wait; durable when this returns."""
        policies, seqs = [policy_id for policy_id, _ in operations], [seq for _, seq in operations]
        values = self._base, holder.pool, policies, seqs, holder.member
        if not await self._pool.fetchval(statements.COUNT_ATTEMPTS, *values):
            raise Fenced(base=self._base)

    async def take_back_attempts(self, operations: Sequence[tuple[PolicyId, int]]) -> None:
        """Count one attempt less of operations that wait, whichever trainer has the lease now."""
        policies, seqs = [policy_id for policy_id, _ in operations], [seq for _, seq in operations]
        await self._pool.execute(statements.TAKE_BACK_ATTEMPTS, policies, seqs)

    async def begin_read(self, policy_id: PolicyId, seq: int) -> None:
        """Count one more read of an operation that waits; durable when this returns."""
        await self._pool.execute(statements.BEGIN_READ, policy_id, seq)

    async def end_read(self, policy_id: PolicyId, seq: int) -> None:
        """Forget the reads of an operation that waits."""
        await self._pool.execute(statements.END_READ, policy_id, seq)

    async def begun_reads(self, name: str) -> int:
        """Return how many reads of a wave's records, or of a policy's state, were begun since one ended."""
        query = "SELECT coalesce(max(reads), 0) FROM wave_reads WHERE wave_id = $1"
        return int(await self._pool.fetchval(query, name))

    async def begin_counted_read(self, name: str, *, now: float) -> None:
        """Count one more read of a wave's records or a policy's state; durable when this returns."""
        await self._pool.execute(statements.BEGIN_COUNTED_READ, name, now)

    async def end_counted_read(self, name: str) -> None:
        """Forget the reads of a wave's records or a policy's state."""
        await self._pool.execute("DELETE FROM wave_reads WHERE wave_id = $1", name)

    async def put_snapshot(self, holder: Holder, snapshot: Snapshot) -> list[Claim]:
        """Make a newer snapshot the session's, delete the payloads that it covers; return unused blobs."""
        async with acquired(self._pool) as connection, connection.transaction():
            values = self._base, holder.pool, snapshot.policy_id, holder.member
            if await connection.fetchval(statements.FENCED_POLICY, *values) is None:
                raise Fenced(base=self._base)
            return await self._put_snapshot(connection, snapshot)

    async def _put_snapshot(self, connection: PostgresConnection, snapshot: Snapshot) -> list[Claim]:
        claim = msgspec.to_builtins(snapshot.claim)
        row = await connection.fetchrow(statements.SNAPSHOT, snapshot.policy_id, claim, snapshot.position)
        if row is None:
            return [snapshot.claim]
        unused = claims_of(await connection.fetch(statements.COVERED, snapshot.policy_id, snapshot.position))
        if row["old"] is not None and row["old"] != claim:
            unused.append(msgspec.convert(row["old"], Claim))
        return unused

    async def held_revisions(self, *, now: float, after: str = "", limit: int | None = None) -> list[Digest]:
        """Return the revisions that open sessions of the base exported last, or checkpoints are; in order."""
        rows = await self._pool.fetch(statements.HELD, self._base, now, after, limit)
        return [Digest(row[0]) for row in rows]

    async def orphans(self, keys: Sequence[StateKey]) -> list[str]:
        """Return which keys, of policies of this base, no row names."""
        columns = [[key.key for key in keys], [key.policy_id for key in keys], [key.kind for key in keys]]
        rows = await self._pool.fetch(statements.ORPHANS, self._base, *columns, [key.number for key in keys])
        return [row["key"] for row in rows]

    async def forget_results(self, *, before: float, limit: int) -> tuple[int, list[Claim]]:
        """Delete results that were finished before a time; return their number, and unused blobs."""
        rows = await self._pool.fetch(statements.FORGET, before, limit)
        return len(rows), claims_of(rows)

    async def prune(self, *, before: float) -> None:
        """Delete operations of sessions closed before a time, and what is older than it and needed no more.

        That is waves, reads, and numbered operations of this base's open sessions that a snapshot covers and
        whose results are deleted. Each session's newest operation and each job's newest wave stay, and
        operations without a client's number stay until their session is closed.
        """
        await prune_rows(self._pool, "operations", statements.ENDED_OPERATION, before)
        forget = statements.FORGET_OPERATIONS, before, PRUNED_AT_ONCE, self._base
        deleted = ""
        while deleted != "DELETE 0":
            async with acquired(self._pool) as connection:
                deleted = await connection.execute(*forget)
        await prune_rows(self._pool, "waves", statements.OLD_WAVE, before)
        await prune_rows(self._pool, "wave_reads", "begun_at < $1", before)


def _key(operation: NewOperation) -> tuple[PolicyId, int, TenantId]:
    return operation.policy_id, operation.seq, operation.tenant_id
