"""Bases, policies, revisions and exports in Postgres.

A policy's row is the lock under which its revisions are numbered.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import asyncpg
import msgspec

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.catalog import (
    OwnedRevision,
    PolicyFilter,
    PolicyRecord,
    Resolution,
    RevisionFilter,
    RevisionRecord,
    SettableState,
)
from mint_common.claims import RevisionRef
from mint_common.errors import BaseChanged, NotFound, RevisionInUse, RevisionLostError
from mint_common.events import RevisionExported
from mint_common.ids import BaseName, Digest, PolicyId, TenantId, new_id
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres_errors import PostgresConnection
from services.registry.adapters.bulk_postgres import insert_policies, insert_revisions, lock_policies
from services.registry.adapters.lineage_postgres import find_related
from services.registry.adapters.policies_postgres import (
    describe_policy,
    insert_policy,
    list_policies,
    locked_policy,
)
from services.registry.adapters.resolve_postgres import resolve_query
from services.registry.adapters.rows import (
    POLICY,
    moment,
    names_of,
    policy_of,
    ref_of,
    revision_of,
)
from services.registry.adapters.vouching_postgres import vouch_for
from services.registry.core.exports import Refusal, answer, state_changed
from services.registry.core.lineage import Reach, Relative
from services.registry.core.names import ModelName, is_policy_id
from services.registry.core.policies import PolicyChange, change_policy, changed, created
from services.registry.core.resolve import base_resolution, policy_resolution
from services.registry.ports import ALL_POLICIES, ALL_REVISIONS

_PUT_BASE = (
    "INSERT INTO bases (name, digest, facts, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
)
_PUT_NORMS = """
    UPDATE bases SET facts = facts || jsonb_build_object('norms', $3::jsonb)
    WHERE name = $1 AND digest = $2 AND coalesce(facts -> 'norms', '{}') = '{}'
"""
_REVISIONS = """
    SELECT * FROM revisions
    WHERE policy_id = $1 AND number > $2 AND ($4::text IS NULL OR state = $4)
        AND ($5::timestamptz IS NULL OR created_at >= $5) AND ($6::timestamptz IS NULL OR created_at < $6)
    ORDER BY number LIMIT $3
"""
_LOCK_POLICY = "SELECT 1 FROM policies WHERE policy_id = $1 FOR NO KEY UPDATE"
_APPEND = """
    INSERT INTO revisions (policy_id, number, digest, manifest_uri, manifest_sha256, manifest_size_bytes,
                           parent, step, metrics, job_id, wave_id, export_id, created_at)
    SELECT $1, coalesce(max(number), 0) + 1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12
    FROM revisions WHERE policy_id = $1
    RETURNING *
"""
_SET_STATE = """
    UPDATE revisions
    SET state = $3, changes = changes + 1, retired_at = CASE WHEN $3 = 'retired' THEN now() END
    WHERE policy_id = $1 AND number = $2 AND state <> $3 RETURNING changes
"""
_OWNED = """
    SELECT name, base, revisions.* FROM revisions JOIN policies USING (policy_id)
    WHERE digest = ANY($2) AND tenant_id = $1 ORDER BY name, number
"""
_SETTLED = """
    SELECT code, reason, revisions.* FROM exports LEFT JOIN revisions USING (policy_id, number)
    WHERE policy_id = $1 AND exports.export_id = $2 AND tenant_id = $3
"""
_SETTLE = """
    INSERT INTO exports (tenant_id, policy_id, export_id, digest, number, code, reason, settled_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


class PostgresCatalog:
    """See `ports.Catalog`."""

    def __init__(self, pool: asyncpg.Pool, ledger: PostgresLedger) -> None:
        self._pool = pool
        self._ledger = ledger

    async def put_base(self, facts: BaseFacts, *, now: float) -> BaseFacts:
        """Store a base, or return what is stored."""
        values = msgspec.to_builtins(facts)
        await self._pool.execute(_PUT_BASE, facts.name, facts.digest, values, moment(now))
        if facts.norms:
            await self._pool.execute(_PUT_NORMS, facts.name, facts.digest, facts.norms)
        found = await self.base(facts.name)
        if found.digest != facts.digest:
            raise BaseChanged(name=facts.name, found=found.digest, expected=facts.digest)
        return found

    async def base(self, name: BaseName | str) -> BaseFacts:
        """Return a base."""
        facts = await self._pool.fetchval("SELECT facts FROM bases WHERE name = $1", name)
        if facts is None:
            raise NotFound(kind="base", name=name)
        return msgspec.convert(facts, BaseFacts)

    async def bases(self) -> Sequence[BaseFacts]:
        """Return all bases by name."""
        rows = await self._pool.fetch("SELECT facts FROM bases ORDER BY name")
        return [msgspec.convert(row["facts"], BaseFacts) for row in rows]

    async def add_policy(self, policy: PolicyRecord) -> None:
        """Store a new policy."""
        async with self._ledger.transaction(new_id("req")) as transaction:
            await insert_policy(transaction.connection, policy)
            await transaction.emit(created(policy))

    async def change_policy(
        self, policy_id: PolicyId, change: PolicyChange, *, expected: int | None
    ) -> PolicyRecord:
        """Describe a policy otherwise."""
        async with self._ledger.transaction(new_id("req")) as transaction:
            policy = await locked_policy(transaction.connection, policy_id)
            described = change_policy(policy, change, expected=expected)
            if described != policy:
                await describe_policy(transaction.connection, described)
                await transaction.emit(changed(described))
        return described

    async def policy(self, tenant_id: TenantId, key: PolicyId | str) -> PolicyRecord:
        """Return a tenant's policy by id or name."""
        column = "policy_id" if is_policy_id(key) else "name"
        row = await self._pool.fetchrow(
            f"{POLICY} WHERE tenant_id = $1 AND policy.{column} = $2", tenant_id, key
        )
        if row is None:
            raise NotFound(kind="policy", name=key)
        return policy_of(row)

    async def policies(
        self, tenant_id: TenantId, wanted: PolicyFilter = ALL_POLICIES, *, limit: int, after: str | None
    ) -> Sequence[PolicyRecord]:
        """Return a page of a tenant's policies."""
        return await list_policies(self._pool, tenant_id, wanted, limit=limit, after=after)

    async def revision(self, policy_id: PolicyId, key: int | Digest) -> RevisionRecord:
        """Return a revision by number or digest."""
        return await _find_revision(self._pool, policy_id, key)

    async def revisions(
        self, policy_id: PolicyId, wanted: RevisionFilter = ALL_REVISIONS, *, limit: int, after: int
    ) -> Sequence[RevisionRecord]:
        """Return a page of a policy's revisions by number."""
        since, before = wanted.created_after, wanted.created_before
        rows = await self._pool.fetch(
            _REVISIONS,
            policy_id,
            after,
            limit,
            wanted.state,
            None if since is None else moment(since),
            None if before is None else moment(before),
        )
        return [revision_of(row) for row in rows]

    async def related(
        self, policy_id: PolicyId, number: int, reach: Reach, *, limit: int
    ) -> Sequence[Relative]:
        """Return a revision's ancestors and descendants within reach, nearest first."""
        return await find_related(self._pool, policy_id, number, reach, limit=limit)

    async def resolve(self, tenant_id: TenantId, name: ModelName) -> Resolution:
        """Return what a model name means now."""
        row = await self._pool.fetchrow(*resolve_query(tenant_id, name))
        if row is not None:
            revision = None if row["number"] is None else ref_of(row)
            return policy_resolution(name, names_of(row), revision, state=row["state"], fault=row["fault"])
        facts = None
        if name.is_bare:
            with suppress(NotFound):
                facts = await self.base(name.name)
        return base_resolution(name, facts)

    async def owned(self, tenant_id: TenantId, digests: Sequence[Digest]) -> Sequence[OwnedRevision]:
        """Return which of these digests are a tenant's, of which policies."""
        rows = await self._pool.fetch(_OWNED, tenant_id, digests)
        return [OwnedRevision(policy=row["name"], base=row["base"], revision=ref_of(row)) for row in rows]

    async def set_state(self, policy: PolicyRecord, number: int, state: SettableState) -> RevisionRecord:
        """Retire a revision, or restore it."""
        async with self._ledger.transaction(new_id("req")) as transaction:
            connection = transaction.connection
            await connection.execute(_LOCK_POLICY, policy.policy_id)
            query = "SELECT alias FROM aliases WHERE policy_id = $1 AND number = $2 ORDER BY alias"
            names = [row["alias"] for row in await connection.fetch(query, policy.policy_id, number)]
            if names and state == "retired":
                raise RevisionInUse(number=number, aliases=", ".join(names))
            known = await _find_revision(connection, policy.policy_id, number)
            if known.fault == "collected" and state == "published":
                raise RevisionLostError(name=policy.name, number=number, fault=known.fault)
            row = await connection.fetchrow(_SET_STATE, policy.policy_id, number, state)
            if row is None:
                return known
            revision = replace(known, state=state)
            await transaction.emit(state_changed(policy, revision, sequence=row["changes"]))
        return revision

    async def settle_export(self, export: RevisionExported, refusal: Refusal | None, *, now: float) -> None:
        """Commit the verdict on an export and tell it."""
        async with self._ledger.transaction(export.id) as transaction:
            connection = transaction.connection
            await connection.execute(_LOCK_POLICY, export.policy_id)
            row = await connection.fetchrow(_SETTLED, export.policy_id, export.export_id, export.tenant_id)
            if row is not None:
                verdict = (
                    ref_of(row) if row["code"] is None else Refusal(code=row["code"], reason=row["reason"])
                )
            else:
                if refusal is None:
                    await transaction.emit(*await vouch_for(connection, [export]))
                verdict = refusal or await _append(connection, export, now)
                await _settle(connection, export, verdict, now)
            await transaction.emit(answer(export, verdict))

    async def add_policies(self, policies: Sequence[PolicyRecord], *, announce: bool = False) -> None:
        """Store many new policies, all or none."""
        async with self._ledger.transaction(new_id("req")) as transaction:
            await insert_policies(transaction.connection, policies)
            if announce:
                await transaction.emit(*map(created, policies))

    async def publish_many(
        self, exports: Sequence[RevisionExported], *, now: float, announce: bool
    ) -> Sequence[RevisionRef]:
        """Publish checked adapters in one step."""
        async with self._ledger.transaction(new_id("req")) as transaction:
            # The policies first, as everybody does who changes their revisions: else two wait for each other.
            await lock_policies(transaction.connection, exports)
            await transaction.emit(*await vouch_for(transaction.connection, exports))
            refs = await insert_revisions(transaction.connection, exports, now=now)
            if announce:
                await transaction.emit(*map(answer, exports, refs))
        return refs


async def _find_revision(
    database: "asyncpg.Pool | PostgresConnection", policy_id: PolicyId, key: int | Digest
) -> RevisionRecord:
    column = "number" if isinstance(key, int) else "digest"
    row = await database.fetchrow(
        f"SELECT * FROM revisions WHERE policy_id = $1 AND {column} = $2",  # noqa: S608  # two constants
        policy_id,
        key,
    )
    if row is None:
        raise NotFound(kind="revision", name=str(key))
    return revision_of(row)


async def _append(connection: PostgresConnection, export: RevisionExported, now: float) -> RevisionRef:
    """Return the revision of the export's digest, which is a new one unless the policy has it already."""
    known = await connection.fetchrow(
        "SELECT * FROM revisions WHERE policy_id = $1 AND digest = $2", export.policy_id, export.digest
    )
    if known is not None:
        return ref_of(known)
    row = await connection.fetchrow(
        _APPEND,
        export.policy_id,
        export.digest,
        export.manifest.uri,
        export.manifest.sha256,
        export.manifest.size_bytes,
        export.parent,
        export.step,
        export.metrics,
        export.job_id,
        export.wave_id,
        export.export_id,
        moment(now),
    )
    assert row is not None, "an insert returns its row"
    return ref_of(row)


async def _settle(
    connection: PostgresConnection, export: RevisionExported, verdict: RevisionRef | Refusal, now: float
) -> None:
    number = None if isinstance(verdict, Refusal) else verdict.number
    code, reason = (verdict.code, verdict.reason) if isinstance(verdict, Refusal) else (None, None)
    await connection.execute(
        _SETTLE,
        export.tenant_id,
        export.policy_id,
        export.export_id,
        export.digest,
        number,
        code,
        reason,
        moment(now),
    )
