"""Aliases in Postgres: moves of one policy's aliases serialise under the lock of the policy's row."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg

from mint_common.catalog import AliasMove, AliasPeriod, AliasRecord, PolicyNames, PolicyRecord
from mint_common.claims import RevisionRef
from mint_common.errors import AliasProtected, InUse
from mint_common.ids import PolicyId, TenantId
from mint_common.names import AUTOMATIC_ACTORS, MAX_LIMIT
from mint_common.runtime.ledger_postgres import PostgresLedger, PostgresTransaction
from mint_common.runtime.postgres import Row, from_row
from mint_common.runtime.postgres_errors import PostgresConnection
from services.registry.adapters.rows import LOCK_POLICY, NEWEST, found, read_revision, ref_of
from services.registry.core.aliases import (
    AliasEntry,
    Mover,
    moved,
    movers,
    plan_move,
    plan_removal,
    plan_rollback,
    removed,
)
from services.registry.core.names import check_servable
from services.registry.core.rules import PersonMove, check_rule_move, moved_since

_ALIASES = """
    SELECT alias, sequence, protected, frozen, revisions.*
    FROM live_aliases JOIN revisions USING (policy_id, number)
    WHERE policy_id = $1
"""
_ALIAS = f"{_ALIASES} AND alias = $2"
# Two bounds: so many policies, and so many aliases of all of them.
_NAMES = f"""
    WITH page AS (
        SELECT policy.policy_id, name, base, created_at, newest.number AS latest
        FROM policies policy {NEWEST}
        WHERE tenant_id = $1 AND name > $2 AND is_published ORDER BY name LIMIT $3
    ), pointed AS (
        SELECT policy_id, jsonb_object_agg(alias, number) AS aliases FROM (
            SELECT policy_id, alias, number FROM page JOIN live_aliases USING (policy_id)
            ORDER BY name, alias LIMIT $4
        ) bounded GROUP BY policy_id
    )
    SELECT name, base, created_at, latest, coalesce(aliases, '{{}}') AS aliases
    FROM page LEFT JOIN pointed USING (policy_id) ORDER BY name
"""  # noqa: S608  # a constant
_HISTORY = """
    SELECT *, moved_at AS at FROM alias_history WHERE policy_id = $1 AND alias = $2 AND sequence < $3
    ORDER BY sequence DESC LIMIT $4
"""
_PERIODS = """
    SELECT alias, moved_at AS since, actor, reason, (
        SELECT moved_at FROM alias_history AS later
        WHERE later.policy_id = own.policy_id AND later.alias = own.alias AND later.sequence > own.sequence
        ORDER BY sequence LIMIT 1
    ) AS until
    FROM alias_history AS own WHERE policy_id = $1 AND number = $2 AND NOT removed
    ORDER BY moved_at DESC, alias LIMIT $3
"""
_AFTER_ALL = 2**31 - 1
_EXISTS = "SELECT 1 FROM aliases WHERE policy_id = $1 AND alias = $2"
# Round trips are most of a move's time, so one query reads all that the decision needs.
_MOVE_INPUTS = """
    SELECT target.state, target.fault, coalesce(protected, false) AS protected,
        coalesce(frozen, false) AS frozen,
        history.sequence, history.previous, history.digest, history.number, history.below, history.removed
    FROM revisions target
    LEFT JOIN aliases ON aliases.policy_id = target.policy_id AND aliases.alias = $2
    LEFT JOIN alias_history history ON history.policy_id = aliases.policy_id
        AND history.alias = aliases.alias AND history.sequence = aliases.sequence
    WHERE target.policy_id = $1 AND target.number = $3
"""
_ROLLBACK_INPUTS = """
    SELECT protected, frozen, history.*, to_jsonb(beneath) AS below_entry, to_jsonb(target) AS target
    FROM live_aliases aliases JOIN alias_history history ON history.policy_id = aliases.policy_id
        AND history.alias = aliases.alias AND history.sequence = aliases.sequence
    LEFT JOIN alias_history beneath ON beneath.policy_id = history.policy_id
        AND beneath.alias = history.alias AND beneath.sequence = history.below
    LEFT JOIN revisions target ON target.policy_id = beneath.policy_id
        AND target.number = beneath.number
    WHERE aliases.policy_id = $1 AND aliases.alias = $2
"""
_SET_FLAGS = """
    WITH policy AS (SELECT policy_id FROM policies WHERE policy_id = $1 FOR NO KEY UPDATE)
    UPDATE aliases SET protected = coalesce($3, protected), frozen = coalesce($4, frozen) FROM policy
    WHERE aliases.policy_id = policy.policy_id AND alias = $2 AND sequence <> removed
"""
_APPEND = """
    WITH pointed AS (
        INSERT INTO aliases AS known (policy_id, alias, sequence, number) VALUES ($1, $2, $3, $6)
        ON CONFLICT (policy_id, alias) DO UPDATE SET sequence = $3, number = $6,
            removed = CASE WHEN $8 THEN $3 ELSE 0 END,
            protected = known.protected AND NOT $8, frozen = known.frozen AND NOT $8
    )
    INSERT INTO alias_history
        (policy_id, alias, sequence, previous, digest, number, below, removed, actor, reason, moved_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""
# People's moves to and from a revision. A push lies on the entry before it; all else is a rollback.
_PERSON_MOVES = """
    SELECT digest, actor, reason, below IS DISTINCT FROM sequence - 1 OR number < $4 AS is_back
    FROM alias_history
    WHERE policy_id = $1 AND alias = $2 AND (digest = $3 OR previous = $3) AND NOT removed
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

_RULES = "SELECT rule_id FROM rules WHERE policy_id = $1 AND alias = $2 ORDER BY rule_id"

HISTORY_ROWS = 100
"""Number of moves that an alias's history holds."""


class PostgresAliases:
    """Aliases and their history."""

    def __init__(self, pool: asyncpg.Pool, ledger: PostgresLedger) -> None:
        self._pool = pool
        self._ledger = ledger

    async def alias(self, policy_id: PolicyId, name: str) -> AliasRecord:
        """Return an alias with the newest `HISTORY_ROWS` rows of its history. Raises NotFound."""
        row = found(await self._pool.fetchrow(_ALIAS, policy_id, name), "alias", name)
        return await _with_history(self._pool, policy_id, _alias_of({**row, "revision": ref_of(row)}))

    async def aliases(
        self, policy_id: PolicyId, *, limit: int = MAX_LIMIT, after: str | None = None
    ) -> Sequence[AliasRecord]:
        """Return a policy's aliases by name, without histories."""
        query = f"{_ALIASES} AND alias > $2 ORDER BY alias LIMIT $3"
        rows = await self._pool.fetch(query, policy_id, after or "", limit)
        return [_alias_of({**row, "revision": ref_of(row)}) for row in rows]

    async def names(
        self, tenant_id: TenantId, *, limit: int, after: str | None = None
    ) -> Sequence[PolicyNames]:
        """Return the names of a tenant's policies that have a revision, with `MAX_LIMIT` aliases in all."""
        rows = await self._pool.fetch(_NAMES, tenant_id, after or "", limit, MAX_LIMIT)
        return [from_row(row, PolicyNames) for row in rows]

    async def move(
        self, policy: PolicyRecord, name: str, target: RevisionRef, mover: Mover, *, expected: str | None
    ) -> AliasRecord:
        """Apply `core.aliases.plan_move`, emit `alias.moved`, and return the alias as this move left it.

        Concurrent moves serialise.

        Raises AliasProtected, AlreadyHandled for a repeated cause, and as `core.names.check_servable`; for
        a rule or a job as `core.rules.check_rule_move`, and for a late one as `core.rules.moved_since`.
        """
        async with self._locked(policy, mover) as transaction:
            row = await transaction.connection.fetchrow(_MOVE_INPUTS, policy.policy_id, name, target.number)
            assert row is not None, "the caller has read its row, and rows of revisions are never deleted"
            _check_mover(row, name, mover)
            check_servable(policy.name, target.number, state=row["state"], fault=row["fault"])
            current = None if row["sequence"] is None else from_row(row, AliasEntry)
            entry = plan_move(name, current, target, expected=expected)
            if entry is not None:
                await _append(transaction, policy, name, entry, target, mover, is_frozen=row["frozen"])
            sequence = entry.sequence if entry else row["sequence"]
            moved_to = _alias_of({**row, "alias": name, "revision": target, "sequence": sequence})
            return await _answered(transaction, policy.policy_id, moved_to)

    async def roll_back(
        self, policy: PolicyRecord, name: str, mover: Mover, *, expected: str | None
    ) -> AliasRecord:
        """Apply `core.aliases.plan_rollback` as `move` does. Raises NotFound for an unknown alias."""
        async with self._locked(policy, mover) as transaction:
            connection = transaction.connection
            row = found(await connection.fetchrow(_ROLLBACK_INPUTS, policy.policy_id, name), "alias", name)
            _check_mover(row, name, mover)
            below = None if row["below_entry"] is None else from_row(row["below_entry"], AliasEntry)
            entry = plan_rollback(name, from_row(row, AliasEntry), below, expected=expected)
            target = row["target"]
            check_servable(policy.name, entry.number, state=target["state"], fault=target["fault"])
            ref = read_revision(target, RevisionRef)
            await _append(transaction, policy, name, entry, ref, mover, is_frozen=row["frozen"])
            back = _alias_of({**row, "revision": ref, "sequence": entry.sequence})
            return await _answered(transaction, policy.policy_id, back)

    async def remove(self, policy: PolicyRecord, name: str, mover: Mover) -> None:
        """Append an entry by which the alias is removed, and emit `alias.removed`; its history stays.

        Raises NotFound, AliasProtected, and InUse while rules move the alias.
        """
        async with self._locked(policy, mover) as transaction:
            connection = transaction.connection
            row = found(await connection.fetchrow(_ROLLBACK_INPUTS, policy.policy_id, name), "alias", name)
            _check_mover(row, name, mover)
            if rules := await connection.fetch(_RULES, policy.policy_id, name):
                named = ", ".join(rule["rule_id"] for rule in rules)
                raise InUse(what=f"Alias {name!r}", held_by=f"rules move it ({named}): remove them first")
            entry = plan_removal(from_row(row, AliasEntry))
            await _insert(connection, policy, name, entry, mover)
            await transaction.emit(removed(policy, name, entry, actor=mover.actor, reason=mover.reason))
            await transaction.answer(name)

    async def history(
        self, policy_id: PolicyId, name: str, *, limit: int, before: int | None
    ) -> Sequence[AliasMove]:
        """Return an alias's moves, newest first, with a sequence below ``before``. Raises NotFound."""
        moves = await _history(self._pool, policy_id, name, _AFTER_ALL if before is None else before, limit)
        if not moves:
            found(await self._pool.fetchval(_EXISTS, policy_id, name), "alias", name)
        return moves

    async def periods(self, policy_id: PolicyId, number: int, *, limit: int) -> Sequence[AliasPeriod]:
        """Return the periods in which aliases pointed at a revision, newest first."""
        rows = await self._pool.fetch(_PERIODS, policy_id, number, limit)
        return [from_row(row, AliasPeriod) for row in rows]

    async def set_flags(
        self,
        policy_id: PolicyId,
        name: str,
        *,
        protected: bool | None = None,
        frozen: bool | None = None,
        cause: str | None = None,
    ) -> AliasRecord:
        """Set the flags of an alias, and return it; None leaves a flag unchanged. Idempotent. Raises
        NotFound.

        Only admins and rules move a ``protected`` alias. Once this has returned, no rule moves a ``frozen``
        one.
        """
        async with self._ledger.request(cause) as transaction:
            connection = transaction.connection
            await connection.execute(_SET_FLAGS, policy_id, name, protected, frozen)
            row = found(await connection.fetchrow(_ALIAS, policy_id, name), "alias", name)
            return await _answered(transaction, policy_id, _alias_of({**row, "revision": ref_of(row)}))

    @asynccontextmanager
    async def _locked(self, policy: PolicyRecord, mover: Mover) -> AsyncIterator[PostgresTransaction]:
        async with self._ledger.request(mover.cause) as transaction:
            await transaction.connection.execute(LOCK_POLICY, policy.policy_id)
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
    is_frozen: bool,
) -> None:
    """Refuse a move of a rule or a job that people have ruled out, or that comes late. Raises RuleRefused."""
    if not mover.actor.startswith(AUTOMATIC_ACTORS):
        return
    key = (policy.policy_id, name, entry.digest, entry.number)
    rows = await connection.fetch(_PERSON_MOVES, *key, AUTOMATIC_ACTORS, HISTORY_ROWS)
    moves = [PersonMove(**row) for row in rows]
    check_rule_move(name, entry.number, entry.digest, moves, is_frozen=is_frozen)
    if mover.decided_at is not None:
        since = (policy.policy_id, name, mover.decided_at, entry.number)
        if newer := await connection.fetchval(_NEWER_MOVE, *since, AUTOMATIC_ACTORS):
            raise moved_since(name, newer)


async def _append(  # noqa: PLR0917  (a move in the order of its sentence)
    transaction: PostgresTransaction,
    policy: PolicyRecord,
    name: str,
    entry: AliasEntry,
    target: RevisionRef,
    mover: Mover,
    *,
    is_frozen: bool,
) -> None:
    """Append an entry and emit the event. Raises as `_check_automatic`."""
    await _check_automatic(transaction.connection, policy, name, entry, mover, is_frozen=is_frozen)
    await _insert(transaction.connection, policy, name, entry, mover)
    await transaction.emit(moved(policy, name, entry, target, actor=mover.actor, reason=mover.reason))


async def _insert(
    connection: PostgresConnection, policy: PolicyRecord, name: str, entry: AliasEntry, mover: Mover
) -> None:
    points = (entry.sequence, entry.previous, entry.digest, entry.number, entry.below, entry.removed)
    await connection.execute(_APPEND, policy.policy_id, name, *points, mover.actor, mover.reason, mover.at)


async def _answered(transaction: PostgresTransaction, policy_id: PolicyId, alias: AliasRecord) -> AliasRecord:
    """Return an alias with its moves, as the transaction's request is answered."""
    shown = await _with_history(transaction.connection, policy_id, alias)
    await transaction.answer(shown)
    return shown


async def _with_history(
    database: "asyncpg.Pool | PostgresConnection", policy_id: PolicyId, alias: AliasRecord
) -> AliasRecord:
    """Return an alias with its moves as far as its own sequence, without later ones."""
    moves = await _history(database, policy_id, alias.alias, alias.sequence + 1, HISTORY_ROWS)
    return replace(alias, history=tuple(reversed(moves)))


async def _history(
    database: "asyncpg.Pool | PostgresConnection", policy_id: PolicyId, name: str, before: int, limit: int
) -> list[AliasMove]:
    """Return moves, newest first."""
    rows = await database.fetch(_HISTORY, policy_id, name, before, limit)
    return [from_row(row, AliasMove) for row in rows]


def _alias_of(row: Row) -> AliasRecord:
    by = movers(protected=row["protected"], frozen=row["frozen"])
    return from_row({**row, "history": (), "moved_by": by}, AliasRecord)
