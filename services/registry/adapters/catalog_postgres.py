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
    PolicyFilter,
    PolicyRecord,
    Resolution,
    RevisionFilter,
    RevisionRecord,
    SettableState,
)
from mint_common.claims import RevisionRef
from mint_common.errors import (
    AlreadyHandled,
    BaseChanged,
    NotFound,
    RevisionInUse,
    RevisionLostError,
)
from mint_common.events import RevisionExported, WaveCancelled
from mint_common.ids import BaseName, Digest, PolicyId, TenantId, new_id
from mint_common.names import BEST, LATEST, is_policy_id
from mint_common.runtime.ledger_postgres import PostgresLedger, PostgresTransaction
from mint_common.runtime.postgres_errors import PostgresConnection, acquired
from services.registry.adapters.best_statements import BEST_NUMBERS, BEST_REVISION, REWARD
from services.registry.adapters.exports_postgres import FOUND, publish_export, store_verdict
from services.registry.adapters.near_names_postgres import with_near_names
from services.registry.adapters.policies_postgres import (
    describe_policy,
    insert_policy,
    list_policies,
    locked_policy,
    remove_policy,
)
from services.registry.adapters.quotas_postgres import check_room, check_usage
from services.registry.adapters.rows import LOCK_POLICY, POLICY, found, policy_of, read_revision, ref_of
from services.registry.core.bases import merge_facts
from services.registry.core.exports import Refusal, answer, export_cause_of, state_changed
from services.registry.core.lineage import Reach, Relative
from services.registry.core.names import DEFAULT_ALIAS, ModelName, base_resolution, check_match
from services.registry.core.policies import PolicyChange, change_policy, changed, created, removed
from services.registry.core.quotas import UNBOUNDED, CatalogQuotas, Kind

_ADD_BASE = (
    "INSERT INTO bases (name, digest, facts, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
)
_LOCK_BASE = "SELECT digest, facts FROM bases WHERE name = $1 FOR NO KEY UPDATE"
_SET_STATE = """
    UPDATE revisions
    SET state = $3, changes = changes + 1, retired_at = CASE WHEN $3 = 'retired' THEN now() END
    WHERE policy_id = $1 AND number = $2 AND state <> $3 RETURNING changes
"""
_SETTLED = """
    SELECT code, reason, revisions.* FROM exports LEFT JOIN revisions USING (policy_id, number)
    WHERE policy_id = $1 AND exports.export_id = $2 AND tenant_id = $3
"""
_RESOLVE = """
    SELECT policy.policy_id, policy.name, policy.base, revision.number, revision.digest, revision.state,
           revision.fault, revision.manifest_uri, revision.manifest_sha256, revision.manifest_size_bytes
    FROM policies policy
    LEFT JOIN revisions revision ON revision.policy_id = policy.policy_id AND revision.{selected}
    WHERE policy.tenant_id = $1 AND policy.{key} = $2 AND removed_at IS NULL
"""
_POINTED = "(SELECT number FROM live_aliases WHERE policy_id = policy.policy_id AND alias = $3)"
_NEWEST = """(SELECT number FROM revisions newest WHERE newest.policy_id = policy.policy_id
             AND state = '{state}' ORDER BY number DESC LIMIT 1)"""
_PUBLISHED, _QUARANTINED = _NEWEST.format(state="published"), _NEWEST.format(state="quarantined")
_REVISIONS = f"""
    SELECT *, {REWARD} FROM revisions
    WHERE policy_id = $1 AND number > $2 AND ($4::text IS NULL OR state = $4)
        AND ($5::timestamptz IS NULL OR created_at >= $5) AND ($6::timestamptz IS NULL OR created_at < $6)
    ORDER BY number LIMIT $3
"""  # noqa: S608  # a constant
_ALIAS = f"number = {_POINTED}"
_DEFAULT = f"number = coalesce({_POINTED}, {_PUBLISHED}, {_QUARANTINED})"
_BY_KEYWORD = {
    LATEST: f"number = coalesce({_POINTED}, {_PUBLISHED})",
    BEST: f"number = coalesce({_POINTED}, {BEST_NUMBERS})",
}
# A revision has one parent, so its descendants are a tree. Only parents that name each other make a cycle:
# such a line ends at the revision itself, or at the distance that was asked for.
_RELATED = """
    WITH RECURSIVE line AS (
        SELECT r.*, 0 AS distance FROM revisions r WHERE policy_id = $1 AND number = $2
        UNION ALL
        SELECT r.*, distance - 1 FROM line JOIN revisions r
        ON r.policy_id = $1 AND r.digest = line.parent AND r.number <> $2 WHERE distance > -$3::integer
    ), tree AS (
        SELECT r.*, 0 AS distance FROM revisions r WHERE policy_id = $1 AND number = $2
        UNION ALL
        SELECT r.*, distance + 1 FROM tree JOIN revisions r
        ON r.policy_id = $1 AND r.parent = tree.digest AND r.number <> $2 WHERE distance < $4::integer
    )
    SELECT * FROM (SELECT * FROM line UNION ALL SELECT * FROM tree) relatives
    WHERE distance <> 0 ORDER BY abs(distance), distance, number LIMIT $5
"""


ALL_POLICIES = PolicyFilter()
ALL_REVISIONS = RevisionFilter()


class PostgresCatalog:
    """Bases, policies, revisions and exports, as handlers ask for them."""

    def __init__(self, pool: asyncpg.Pool, ledger: PostgresLedger, quotas: CatalogQuotas = UNBOUNDED) -> None:
        self._pool = pool
        self._ledger = ledger
        self._quotas = quotas

    async def put_base(self, facts: BaseFacts, *, now: float) -> BaseFacts:
        """Store a base, or merge its facts into the stored ones (`core.bases`), and return them.

        Raises BaseChanged for another digest.
        """
        values = msgspec.json.decode(msgspec.json.encode(facts))
        async with acquired(self._pool) as connection, connection.transaction():
            await connection.execute(_ADD_BASE, facts.name, facts.digest, values, now)
            row = found(await connection.fetchrow(_LOCK_BASE, facts.name), "base", facts.name)
            if row["digest"] != facts.digest:
                raise BaseChanged(name=facts.name, found=row["digest"], expected=facts.digest)
            merged = merge_facts(row["facts"], values)
            if merged != row["facts"]:
                await connection.execute("UPDATE bases SET facts = $2 WHERE name = $1", facts.name, merged)
        return msgspec.convert(merged, BaseFacts)

    async def base(self, name: BaseName | str) -> BaseFacts:
        """Return a base. Raises NotFound."""
        facts = await self._pool.fetchval("SELECT facts FROM bases WHERE name = $1", name)
        return msgspec.convert(found(facts, "base", name), BaseFacts)

    async def base_names(self) -> Sequence[BaseName]:
        """Return the names of all bases, sorted."""
        return [row["name"] for row in await self._pool.fetch("SELECT name FROM bases ORDER BY name")]

    async def bases(self) -> Sequence[BaseFacts]:
        """Return all bases by name."""
        rows = await self._pool.fetch("SELECT facts FROM bases ORDER BY name")
        return [msgspec.convert(row["facts"], BaseFacts) for row in rows]

    async def add_policy(self, policy: PolicyRecord, *, cause: str | None = None) -> None:
        """Store a new policy and emit `policy.created`, once for each cause.

        Raises AlreadyExists, InvalidField when a base has the name, NotFound, QuotaExceeded.
        """
        async with self._ledger.request(cause) as transaction:
            await check_room(transaction.connection, policy.tenant_id, self._quotas, "policies")
            await insert_policy(transaction.connection, policy)
            await transaction.emit(created(policy))
            await transaction.answer(policy)

    async def change_policy(
        self, policy_id: PolicyId, change: PolicyChange, *, expected: int | None, cause: str | None = None
    ) -> PolicyRecord:
        """Apply `core.policies.change_policy`, emit `policy.changed` if it changed, and return the policy.

        Concurrent changes serialise. Raises NotFound.
        """
        async with self._ledger.request(cause) as transaction:
            policy = await locked_policy(transaction.connection, policy_id)
            described = change_policy(policy, change, expected=expected)
            if described != policy:
                await describe_policy(transaction.connection, described)
                await transaction.emit(changed(described))
            await transaction.answer(described)
        return described

    async def remove_policy(self, policy: PolicyRecord, *, actor: str, cause: str | None = None) -> None:
        """Remove a policy that no alias or rule holds, and emit `policy.removed`; its name is free then.

        Its revisions are retired and their bytes can be collected. Raises NotFound, InUse.
        """
        async with self._ledger.request(cause) as transaction:
            known = await locked_policy(transaction.connection, policy.policy_id)
            await remove_policy(transaction.connection, known)
            await transaction.emit(removed(known, actor=actor))
            await transaction.answer(known.name)

    async def policy(self, tenant_id: TenantId, key: PolicyId | str) -> PolicyRecord:
        """Return a tenant's policy by id or name. Raises NotFound."""
        column = "policy_id" if is_policy_id(key) else "name"
        row = await self._pool.fetchrow(
            f"{POLICY} WHERE tenant_id = $1 AND policy.{column} = $2 AND removed_at IS NULL", tenant_id, key
        )
        return policy_of(found(row, "policy", key))

    async def policies(
        self, tenant_id: TenantId, wanted: PolicyFilter = ALL_POLICIES, *, limit: int, after: str | None
    ) -> Sequence[PolicyRecord]:
        """Return a tenant's policies by name, or by time when a time selects them; ``after`` is a name.

        Raises InvalidField when a list by time continues after an unknown policy.
        """
        return await list_policies(self._pool, tenant_id, wanted, limit=limit, after=after)

    async def revision(self, policy_id: PolicyId, key: int | Digest) -> RevisionRecord:
        """Return a revision by number or digest. Raises NotFound."""
        return await _find_revision(self._pool, policy_id, key)

    async def best(self, policy_id: PolicyId) -> RevisionRecord:
        """Return the best published one. Raises NotFound.

        It has the highest ``valid_reward_mean`` of the newest job that scored its revisions so; if none did,
        its training samples got the highest mean reward.
        """
        for query in BEST_REVISION:
            row = await self._pool.fetchrow(query, policy_id)
            if row is not None:
                break
        return read_revision(found(row, "revision", BEST), RevisionRecord)

    async def revisions(
        self, policy_id: PolicyId, wanted: RevisionFilter = ALL_REVISIONS, *, limit: int, after: int
    ) -> Sequence[RevisionRecord]:
        """Return a page of a policy's revisions by number."""
        selected = (wanted.state, wanted.created_after, wanted.created_before)
        rows = await self._pool.fetch(_REVISIONS, policy_id, after, limit, *selected)
        return [read_revision(row, RevisionRecord) for row in rows]

    async def related(
        self, policy_id: PolicyId, number: int, reach: Reach, *, limit: int
    ) -> Sequence[Relative]:
        """Return a revision's ancestors and descendants within reach, nearest first; ``limit`` in all."""
        within = (reach.ancestors, reach.descendants)
        rows = await self._pool.fetch(_RELATED, policy_id, number, *within, limit)
        return [
            Relative(revision=read_revision(row, RevisionRecord), distance=row["distance"]) for row in rows
        ]

    async def resolve(self, tenant_id: TenantId, name: ModelName) -> Resolution:
        """Return the current target of a model name, using only indexes.

        A policy takes precedence over a base of the same name. Raises NotFound naming the missing object
        (model, policy, alias or revision) and near names, NoRevision for a policy without a published one.
        """
        try:
            return await self._resolve(tenant_id, name)
        except NotFound as error:
            raise await with_near_names(self._pool, tenant_id, name, error) from error

    async def _resolve(self, tenant_id: TenantId, name: ModelName) -> Resolution:
        row = await self._pool.fetchrow(*_resolve_query(tenant_id, name))
        if row is not None:
            check_match(name, row["name"], row["number"], state=row["state"], fault=row["fault"])
            return Resolution(
                base=row["base"], policy_id=row["policy_id"], policy_name=row["name"], revision=ref_of(row)
            )
        facts = None
        if name.is_bare:
            with suppress(NotFound):
                facts = await self.base(name.name)
        return base_resolution(name, facts)

    async def set_state(
        self, policy: PolicyRecord, number: int, state: SettableState, *, cause: str | None = None
    ) -> RevisionRecord:
        """Retire a revision, or restore a retired or quarantined one, and emit the event. Idempotent.

        A retired one keeps its row and bytes. Raises NotFound, and RevisionInUse when an alias points at it.
        """
        async with self._ledger.request(cause) as transaction:
            connection = transaction.connection
            await connection.execute(LOCK_POLICY, policy.policy_id)
            query = "SELECT alias FROM live_aliases WHERE policy_id = $1 AND number = $2 ORDER BY alias"
            names = [row["alias"] for row in await connection.fetch(query, policy.policy_id, number)]
            if names and state == "retired":
                raise RevisionInUse(number=number, aliases=", ".join(names))
            known = await _find_revision(connection, policy.policy_id, number)
            if known.fault == "collected" and state == "published":
                raise RevisionLostError(name=policy.name, number=number, fault=known.fault)
            row = await connection.fetchrow(_SET_STATE, policy.policy_id, number, state)
            revision = replace(known, state=state)
            if row is not None:
                await transaction.emit(state_changed(policy, revision, sequence=row["changes"]))
            await transaction.answer(revision)
        return revision

    async def check_room(self, tenant_id: TenantId, *kinds: Kind) -> None:
        """Check that a tenant may have one more of these now; storing it decides. Raises QuotaExceeded."""
        await check_usage(self._pool, tenant_id, self._quotas, *kinds)

    async def settle_export(
        self, export: RevisionExported, refusal: Refusal | None, *, now: float, size_bytes: int = 0
    ) -> None:
        """Commit the verdict on an export and emit the event; None publishes.

        Numbers of a policy's revisions are 1, 2, ... without gaps. An adapter that the policy already has
        keeps its number; a new one has ``size_bytes``, or raises QuotaExceeded. An export that was settled
        before gets its first verdict again. Raises AlreadyHandled when this event was committed before.
        """
        async with self._ledger.transaction(export.id) as transaction:
            connection = transaction.connection
            if await connection.fetchval(LOCK_POLICY, export.policy_id) is False and refusal is None:
                refusal = Refusal(code=NotFound.code, reason=f"policy {export.policy_id} was removed")
            row = await connection.fetchrow(_SETTLED, export.policy_id, export.export_id, export.tenant_id)
            verdict: RevisionRef | Refusal
            if row is not None:
                verdict = (
                    ref_of(row) if row["code"] is None else Refusal(code=row["code"], reason=row["reason"])
                )
            elif refusal is not None:
                verdict = refusal
                await store_verdict(connection, export, refusal, now=now)
            else:
                verdict = await self._publish(transaction, export, now=now, size_bytes=size_bytes)
            await transaction.emit(answer(export, verdict))

    async def refuse_exports_of(self, wave: WaveCancelled) -> None:
        """Mark the export of a cancelled wave as known, so that it is never settled. Idempotent.

        No event is emitted: ``wave.cancelled`` was one. An export that was settled before keeps its verdict.
        """
        with suppress(AlreadyHandled):
            async with self._ledger.transaction(export_cause_of(wave)):
                pass

    async def publish(self, export: RevisionExported, *, now: float, size_bytes: int = 0) -> None:
        """Publish a checked adapter that no trainer exported, and emit `revision.published`.

        Numbers and repeats are as `settle_export` says, but a lost revision is healed by its export again.
        Raises NotFound for an unknown policy.
        """
        async with self._ledger.transaction(new_id("req")) as transaction:
            locked = await transaction.connection.fetchval(LOCK_POLICY, export.policy_id)
            found(locked or None, "policy", export.policy_id)
            ref = await self._publish(transaction, export, now=now, size_bytes=size_bytes)
            await transaction.emit(answer(export, ref))

    async def _publish(
        self, transaction: PostgresTransaction, export: RevisionExported, *, now: float, size_bytes: int
    ) -> RevisionRef:
        """Publish an export, if it is a new adapter within the tenant's quotas. Raises QuotaExceeded."""
        known = await transaction.connection.fetchrow(FOUND, export.policy_id, export.digest)
        if known is None:
            kinds: tuple[Kind, ...] = ("adapters", "adapter_bytes")
            await check_room(transaction.connection, export.tenant_id, self._quotas, *kinds)
        return await publish_export(transaction, export, now=now, size_bytes=size_bytes)


def _resolve_query(tenant_id: TenantId, name: ModelName) -> tuple[str, TenantId, str, str | int]:
    """Return the query for a policy and the revision that a name selects, with its arguments.

    A gateway asks it for each model name that it has not cached, so every step is a look-up by unique index.
    The revision's columns are null when the selector matches none; no row means no policy.
    """
    selected: str
    argument: str | int
    if name.revision is not None:
        selected = "number = $3" if isinstance(name.revision, int) else "digest = $3"
        argument = name.revision
    elif name.alias is not None:
        selected, argument = _BY_KEYWORD.get(name.alias, _ALIAS), name.alias
    else:
        selected, argument = _DEFAULT, DEFAULT_ALIAS
    key = "policy_id" if is_policy_id(name.name) else "name"
    return _RESOLVE.format(selected=selected, key=key), tenant_id, name.name, argument


async def _find_revision(
    database: "asyncpg.Pool | PostgresConnection", policy_id: PolicyId, key: int | Digest
) -> RevisionRecord:
    """Return a revision by number or digest. Raises NotFound."""
    column = "number" if isinstance(key, int) else "digest"
    row = await database.fetchrow(
        f"SELECT *, {REWARD} FROM revisions WHERE policy_id = $1 AND {column} = $2",  # noqa: S608  # constants
        policy_id,
        key,
    )
    return read_revision(found(row, "revision", str(key)), RevisionRecord)
