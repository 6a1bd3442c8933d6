"""Aliases in Postgres: moves of one policy's aliases take turns under the lock on the policy's row."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from mint_common.catalog import AliasMove, AliasRecord, PolicyRecord
from mint_common.claims import RevisionRef
from mint_common.errors import AliasProtected, NotFound
from mint_common.ids import PolicyId, new_id
from mint_common.runtime.ledger_postgres import PostgresLedger, PostgresTransaction
from mint_common.runtime.postgres_errors import PostgresConnection
from services.registry.adapters.rows import moment, move_of, ref_of
from services.registry.core.aliases import AliasEntry, moved, plan_move, plan_rollback
from services.registry.core.resolve import check_servable
from services.registry.ports import HISTORY_ROWS, Mover

_ALIASES = """
    SELECT alias, sequence, protected, revisions.* FROM aliases JOIN revisions USING (policy_id, number)
    WHERE policy_id = $1
"""
_HISTORY = """
    SELECT * FROM alias_history WHERE policy_id = $1 AND alias = $2 ORDER BY sequence DESC LIMIT $3
"""
_PAGE = """
    SELECT * FROM alias_history WHERE policy_id = $1 AND alias = $2 AND sequence < $3
    ORDER BY sequence DESC LIMIT $4
"""
_AFTER_ALL = 2**31 - 1
_EXISTS = "SELECT 1 FROM aliases WHERE policy_id = $1 AND alias = $2"
_CURRENT = """
    SELECT history.* FROM aliases JOIN alias_history history USING (policy_id, alias, sequence)
    WHERE policy_id = $1 AND alias = $2
"""
_LOCK_POLICY = "SELECT 1 FROM policies WHERE policy_id = $1 FOR NO KEY UPDATE"
# One round trip for both: a move is a handful of them, and most of its time.
_APPEND = """
    WITH pointed AS (
        INSERT INTO aliases (policy_id, alias, sequence, number) VALUES ($1, $2, $3, $6)
        ON CONFLICT (policy_id, alias) DO UPDATE SET sequence = $3, number = $6
    )
    INSERT INTO alias_history
        (policy_id, alias, sequence, previous, digest, number, below, actor, reason, moved_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""


class PostgresAliases:
    """See `ports.Aliases`."""

    def __init__(self, pool: asyncpg.Pool, ledger: PostgresLedger) -> None:
        self._pool = pool
        self._ledger = ledger

    async def alias(self, policy_id: PolicyId, name: str) -> AliasRecord:
        """Return an alias with the newest rows of its history."""
        # The current row first: history that was added since is cut off, so both are of one moment.
        row = await self._pool.fetchrow(f"{_ALIASES} AND alias = $2", policy_id, name)
        if row is None:
            raise NotFound(kind="alias", name=name)
        rows = await self._pool.fetch(_HISTORY, policy_id, name, HISTORY_ROWS)
        history = tuple(move_of(move) for move in reversed(rows) if move["sequence"] <= row["sequence"])
        return AliasRecord(
            alias=name,
            revision=ref_of(row),
            sequence=row["sequence"],
            history=history,
            protected=row["protected"],
        )

    async def aliases(self, policy_id: PolicyId) -> Sequence[AliasRecord]:
        """Return all aliases of a policy by name, without histories."""
        rows = await self._pool.fetch(f"{_ALIASES} ORDER BY alias", policy_id)
        return [
            AliasRecord(
                alias=row["alias"],
                revision=ref_of(row),
                sequence=row["sequence"],
                history=(),
                protected=row["protected"],
            )
            for row in rows
        ]

    async def move(
        self, policy: PolicyRecord, name: str, target: RevisionRef, mover: Mover, *, expected: str | None
    ) -> None:
        """Apply `core.aliases.plan_move` and tell it."""
        async with self._turn(policy, name, mover) as transaction:
            connection = transaction.connection
            await _check_published(connection, policy, target.number)
            current = await _current(connection, policy.policy_id, name)
            entry = plan_move(name, current, target, expected=expected)
            if entry is not None:
                await _append(connection, policy.policy_id, name, entry, mover)
                event = moved(policy, name, entry, target, actor=mover.actor, reason=mover.reason)
                await transaction.emit(event)

    async def roll_back(self, policy: PolicyRecord, name: str, mover: Mover, *, expected: str | None) -> None:
        """Apply `core.aliases.plan_rollback` and tell it."""
        async with self._turn(policy, name, mover) as transaction:
            connection = transaction.connection
            current = await _current(connection, policy.policy_id, name)
            if current is None:
                raise NotFound(kind="alias", name=name)
            below = await _entry(connection, policy.policy_id, name, current.below)
            entry = plan_rollback(name, current, below, expected=expected)
            await _check_published(connection, policy, entry.number)
            target = await _revision(connection, policy.policy_id, entry.number)
            await _append(connection, policy.policy_id, name, entry, mover)
            event = moved(policy, name, entry, target, actor=mover.actor, reason=mover.reason)
            await transaction.emit(event)

    async def history(
        self, policy_id: PolicyId, name: str, *, limit: int, before: int | None
    ) -> Sequence[AliasMove]:
        """Return rows of an alias's history, newest first."""
        rows = await self._pool.fetch(_PAGE, policy_id, name, before or _AFTER_ALL, limit)
        if not rows and await self._pool.fetchval(_EXISTS, policy_id, name) is None:
            raise NotFound(kind="alias", name=name)
        return [move_of(row) for row in rows]

    async def protect(self, policy_id: PolicyId, name: str, *, protected: bool) -> None:
        """Let nobody but admins and rules move an alias, or everybody again."""
        query = "UPDATE aliases SET protected = $3 WHERE policy_id = $1 AND alias = $2 RETURNING alias"
        if await self._pool.fetchval(query, policy_id, name, protected) is None:
            raise NotFound(kind="alias", name=name)

    @asynccontextmanager
    async def _turn(
        self, policy: PolicyRecord, name: str, mover: Mover
    ) -> AsyncIterator[PostgresTransaction]:
        async with self._ledger.transaction(mover.cause or new_id("req")) as transaction:
            await transaction.connection.execute(_LOCK_POLICY, policy.policy_id)
            if not mover.is_admin:
                query = "SELECT protected FROM aliases WHERE policy_id = $1 AND alias = $2"
                if await transaction.connection.fetchval(query, policy.policy_id, name):
                    raise AliasProtected(alias=name)
            yield transaction


async def _check_published(connection: PostgresConnection, policy: PolicyRecord, number: int) -> None:
    query = "SELECT state, fault FROM revisions WHERE policy_id = $1 AND number = $2"
    row = await connection.fetchrow(query, policy.policy_id, number)
    assert row is not None, "the caller has found it, and rows of revisions stay"
    check_servable(policy, number, is_retired=row["state"] == "retired", fault=row["fault"])


async def _current(connection: PostgresConnection, policy_id: PolicyId, name: str) -> AliasEntry | None:
    row = await connection.fetchrow(_CURRENT, policy_id, name)
    return _entry_of(row) if row else None


async def _entry(
    connection: PostgresConnection, policy_id: PolicyId, name: str, sequence: int | None
) -> AliasEntry | None:
    query = "SELECT * FROM alias_history WHERE policy_id = $1 AND alias = $2 AND sequence = $3"
    row = await connection.fetchrow(query, policy_id, name, sequence)
    return _entry_of(row) if row else None


def _entry_of(row: asyncpg.Record) -> AliasEntry:
    return AliasEntry(
        sequence=row["sequence"],
        previous=row["previous"],
        digest=row["digest"],
        number=row["number"],
        below=row["below"],
    )


async def _revision(connection: PostgresConnection, policy_id: PolicyId, number: int) -> RevisionRef:
    query = "SELECT * FROM revisions WHERE policy_id = $1 AND number = $2"
    row = await connection.fetchrow(query, policy_id, number)
    assert row is not None, "a foreign key keeps it"
    return ref_of(row)


async def _append(
    connection: PostgresConnection, policy_id: PolicyId, name: str, entry: AliasEntry, mover: Mover
) -> None:
    await connection.execute(
        _APPEND,
        policy_id,
        name,
        entry.sequence,
        entry.previous,
        entry.digest,
        entry.number,
        entry.below,
        mover.actor,
        mover.reason,
        moment(mover.at),
    )
