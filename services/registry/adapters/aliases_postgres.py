"""Aliases in Postgres: moves of one policy's aliases serialise under the lock of the policy's row."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from mint_common.catalog import AliasMove, AliasRecord, PolicyRecord
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import AliasProtected, NotFound
from mint_common.ids import PolicyId, new_id
from mint_common.names import AUTOMATIC_ACTORS
from mint_common.runtime.ledger_postgres import PostgresLedger, PostgresTransaction
from mint_common.runtime.postgres_errors import PostgresConnection
from services.registry.adapters.rows import alias_of, moment, move_of, ref_of
from services.registry.core.aliases import AliasEntry, moved, plan_move, plan_rollback
from services.registry.core.resolve import check_servable
from services.registry.core.rules import PersonMove, check_rule_move, moved_since
from services.registry.ports.accounts import PAGE
from services.registry.ports.aliases import HISTORY_ROWS, Mover

_ALIASES = """
    SELECT alias, sequence, protected, frozen, revisions.*
    FROM aliases JOIN revisions USING (policy_id, number)
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
# A statement of its own: one that waits for a lock does not see what was committed while it waited.
_LOCK_POLICY = "SELECT 1 FROM policies WHERE policy_id = $1 FOR NO KEY UPDATE"
# Round trips are most of a move's time, so one query reads all that the decision needs.
_MOVE_INPUTS = """
    SELECT target.state, target.fault, coalesce(protected, false) AS protected,
        coalesce(frozen, false) AS frozen,
        history.sequence, history.previous, history.digest, history.number, history.below
    FROM revisions target
    LEFT JOIN aliases ON aliases.policy_id = target.policy_id AND aliases.alias = $2
    LEFT JOIN alias_history history ON history.policy_id = aliases.policy_id
        AND history.alias = aliases.alias AND history.sequence = aliases.sequence
    WHERE target.policy_id = $1 AND target.number = $3
"""
_ROLLBACK_INPUTS = """
    SELECT protected, frozen, history.*, below.sequence AS below_sequence, below.previous AS below_previous,
        below.below AS below_below, target.state, target.fault, target.digest AS target_digest,
        target.number AS target_number, manifest_uri, manifest_sha256, manifest_size_bytes
    FROM aliases JOIN alias_history history ON history.policy_id = aliases.policy_id
        AND history.alias = aliases.alias AND history.sequence = aliases.sequence
    LEFT JOIN alias_history below ON below.policy_id = history.policy_id AND below.alias = history.alias
        AND below.sequence = history.below
    LEFT JOIN revisions target ON target.policy_id = below.policy_id AND target.number = below.number
    WHERE aliases.policy_id = $1 AND aliases.alias = $2
"""
_APPEND = """
    WITH pointed AS (
        INSERT INTO aliases (policy_id, alias, sequence, number) VALUES ($1, $2, $3, $6)
        ON CONFLICT (policy_id, alias) DO UPDATE SET sequence = $3, number = $6
    )
    INSERT INTO alias_history
        (policy_id, alias, sequence, previous, digest, number, below, actor, reason, moved_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
# People's moves to and from a revision. A push lies on the entry before it; all else is a rollback.
_PERSON_MOVES = """
    SELECT digest, actor, reason, below IS DISTINCT FROM sequence - 1 OR number < $4 AS is_back
    FROM alias_history
    WHERE policy_id = $1 AND alias = $2 AND (digest = $3 OR previous = $3)
        AND NOT EXISTS (SELECT FROM unnest($5::text[]) AS automatic WHERE starts_with(actor, automatic))
    ORDER BY sequence DESC LIMIT $6
"""
# What a job that comes late gives way to.
_NEWER_MOVE = """
    SELECT actor FROM alias_history
    WHERE policy_id = $1 AND alias = $2 AND moved_at > $3 AND (number > $4
        OR NOT EXISTS (SELECT FROM unnest($5::text[]) AS automatic WHERE starts_with(actor, automatic)))
    ORDER BY sequence DESC LIMIT 1
"""


class PostgresAliases:
    """See `ports.Aliases`."""

    def __init__(self, pool: asyncpg.Pool, ledger: PostgresLedger) -> None:
        self._pool = pool
        self._ledger = ledger

    async def alias(self, policy_id: PolicyId, name: str) -> AliasRecord:
        """Return an alias with the newest rows of its history."""
        # The current row first: later history rows are cut off, so that both are of one moment.
        row = await self._pool.fetchrow(f"{_ALIASES} AND alias = $2", policy_id, name)
        if row is None:
            raise NotFound(kind="alias", name=name)
        rows = await self._pool.fetch(_HISTORY, policy_id, name, HISTORY_ROWS)
        history = tuple(move_of(move) for move in reversed(rows) if move["sequence"] <= row["sequence"])
        return alias_of(row, ref_of(row), history, alias=name, sequence=row["sequence"])

    async def aliases(
        self, policy_id: PolicyId, *, limit: int = PAGE, after: str | None = None
    ) -> Sequence[AliasRecord]:
        """Return a policy's aliases by name, without histories."""
        query = f"{_ALIASES} AND alias > $2 ORDER BY alias LIMIT $3"
        rows = await self._pool.fetch(query, policy_id, after or "", limit)
        return [alias_of(row, ref_of(row), (), alias=row["alias"], sequence=row["sequence"]) for row in rows]

    async def move(
        self, policy: PolicyRecord, name: str, target: RevisionRef, mover: Mover, *, expected: str | None
    ) -> AliasRecord:
        """Apply `core.aliases.plan_move`."""
        async with self._locked(policy, mover) as transaction:
            row = await transaction.connection.fetchrow(_MOVE_INPUTS, policy.policy_id, name, target.number)
            assert row is not None, "the caller has read its row, and rows of revisions are never deleted"
            _check_mover(row, name, mover)
            check_servable(policy, target.number, state=row["state"], fault=row["fault"])
            current = None if row["sequence"] is None else _entry_of(row)
            entry = plan_move(name, current, target, expected=expected)
            if entry is not None:
                await _check_automatic(
                    transaction.connection, policy, name, entry, mover, frozen=row["frozen"]
                )
                await _append(transaction, policy, name, entry=entry, target=target, mover=mover)
            sequence = entry.sequence if entry else row["sequence"]
            return await _record(transaction.connection, policy, name, row, target=target, sequence=sequence)

    async def roll_back(
        self, policy: PolicyRecord, name: str, mover: Mover, *, expected: str | None
    ) -> AliasRecord:
        """Apply `core.aliases.plan_rollback`."""
        async with self._locked(policy, mover) as transaction:
            row = await transaction.connection.fetchrow(_ROLLBACK_INPUTS, policy.policy_id, name)
            if row is None:
                raise NotFound(kind="alias", name=name)
            _check_mover(row, name, mover)
            entry = plan_rollback(name, _entry_of(row), _below_of(row), expected=expected)
            check_servable(policy, entry.number, state=row["state"], fault=row["fault"])
            target = _target_of(row)
            await _check_automatic(transaction.connection, policy, name, entry, mover, frozen=row["frozen"])
            await _append(transaction, policy, name, entry=entry, target=target, mover=mover)
            return await _record(
                transaction.connection, policy, name, row, target=target, sequence=entry.sequence
            )

    async def history(
        self, policy_id: PolicyId, name: str, *, limit: int, before: int | None
    ) -> Sequence[AliasMove]:
        """Return rows of an alias's history, newest first."""
        rows = await self._pool.fetch(_PAGE, policy_id, name, _AFTER_ALL if before is None else before, limit)
        if not rows and await self._pool.fetchval(_EXISTS, policy_id, name) is None:
            raise NotFound(kind="alias", name=name)
        return [move_of(row) for row in rows]

    async def protect(self, policy_id: PolicyId, name: str, *, protected: bool) -> None:
        """Allow moves of an alias to admins and rules only, or to everybody."""
        query = "UPDATE aliases SET protected = $3 WHERE policy_id = $1 AND alias = $2 RETURNING alias"
        if await self._pool.fetchval(query, policy_id, name, protected) is None:
            raise NotFound(kind="alias", name=name)

    async def freeze(self, policy_id: PolicyId, name: str, *, frozen: bool) -> None:
        """Stop rules from moving an alias, or allow it again."""
        query = """
            WITH policy AS (SELECT policy_id FROM policies WHERE policy_id = $1 FOR NO KEY UPDATE)
            UPDATE aliases SET frozen = $3 FROM policy
            WHERE aliases.policy_id = policy.policy_id AND alias = $2 RETURNING alias
        """
        if await self._pool.fetchval(query, policy_id, name, frozen) is None:
            raise NotFound(kind="alias", name=name)

    @asynccontextmanager
    async def _locked(self, policy: PolicyRecord, mover: Mover) -> AsyncIterator[PostgresTransaction]:
        async with self._ledger.transaction(mover.cause or new_id("req")) as transaction:
            await transaction.connection.execute(_LOCK_POLICY, policy.policy_id)
            yield transaction


def _check_mover(row: asyncpg.Record, name: str, mover: Mover) -> None:
    if row["protected"] and not mover.is_admin:
        raise AliasProtected(alias=name)


async def _check_automatic(
    connection: PostgresConnection,
    policy: PolicyRecord,
    name: str,
    entry: AliasEntry,
    mover: Mover,
    *,
    frozen: bool,
) -> None:
    """Refuse a move of a rule or a job that people have ruled out, or that comes late. Raises RuleRefused."""
    if not mover.actor.startswith(AUTOMATIC_ACTORS):
        return
    key = (policy.policy_id, name, entry.digest, entry.number)
    rows = await connection.fetch(_PERSON_MOVES, *key, AUTOMATIC_ACTORS, HISTORY_ROWS)
    moves = [PersonMove(**row) for row in rows]
    check_rule_move(name, entry.number, entry.digest, moves, is_frozen=frozen)
    if mover.decided_at is not None:
        since = (policy.policy_id, name, moment(mover.decided_at), entry.number)
        if newer := await connection.fetchval(_NEWER_MOVE, *since, AUTOMATIC_ACTORS):
            raise moved_since(name, newer)


def _entry_of(row: asyncpg.Record) -> AliasEntry:
    return AliasEntry(
        sequence=row["sequence"],
        previous=row["previous"],
        digest=row["digest"],
        number=row["number"],
        below=row["below"],
    )


def _below_of(row: asyncpg.Record) -> AliasEntry | None:
    if row["below_sequence"] is None:
        return None
    return AliasEntry(
        sequence=row["below_sequence"],
        previous=row["below_previous"],
        digest=row["target_digest"],
        number=row["target_number"],
        below=row["below_below"],
    )


def _target_of(row: asyncpg.Record) -> RevisionRef:
    manifest = Claim(
        uri=row["manifest_uri"], sha256=row["manifest_sha256"], size_bytes=row["manifest_size_bytes"]
    )
    return RevisionRef(digest=row["target_digest"], number=row["target_number"], manifest=manifest)


async def _append(
    transaction: PostgresTransaction,
    policy: PolicyRecord,
    name: str,
    *,
    entry: AliasEntry,
    target: RevisionRef,
    mover: Mover,
) -> None:
    await transaction.connection.execute(
        _APPEND,
        policy.policy_id,
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
    await transaction.emit(moved(policy, name, entry, target, actor=mover.actor, reason=mover.reason))


async def _record(
    connection: PostgresConnection,
    policy: PolicyRecord,
    name: str,
    row: asyncpg.Record,
    *,
    target: RevisionRef,
    sequence: int,
) -> AliasRecord:
    """Return the alias as the open transaction leaves it, without later moves."""
    moves = await connection.fetch(_HISTORY, policy.policy_id, name, HISTORY_ROWS)
    history = tuple(move_of(move) for move in reversed(moves))
    return alias_of(row, target, history, alias=name, sequence=sequence)
