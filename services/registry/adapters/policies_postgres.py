"""Policies in Postgres: inserts, changes, and lists by index.

Each order and filter of a list has its own index, so that a page costs the same at any depth. A page's
policies are selected before their newest revisions are looked up.
"""

from collections.abc import Callable, Sequence

import asyncpg
import msgspec

from mint_common.catalog import PolicyFilter, PolicyRecord
from mint_common.errors import AlreadyExists, InUse, InvalidField, NotFound
from mint_common.ids import PolicyId, TenantId
from mint_common.runtime.postgres_errors import PostgresConnection
from services.registry.adapters.rows import NEWEST, POLICY, found, policy_of

_ADD = """
    INSERT INTO policies (policy_id, tenant_id, name, base, lora, created_at, description, labels, retention)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 WHERE NOT EXISTS (SELECT FROM bases WHERE name = $3)
    RETURNING policy_id
"""
_LOCKED = f"{POLICY} WHERE policy.policy_id = $1 AND removed_at IS NULL FOR NO KEY UPDATE OF policy"
_HOLDERS = """
    SELECT 'alias ' || alias AS holder FROM live_aliases WHERE policy_id = $1
    UNION ALL SELECT 'rule ' || rule_id FROM rules WHERE policy_id = $1 ORDER BY holder LIMIT $2
"""
_RETIRE_ALL = """
    UPDATE revisions SET state = 'retired', retired_at = now(), changes = changes + 1
    WHERE policy_id = $1 AND state <> 'retired'
"""
_REMOVE = """
    UPDATE policies SET name = policy_id, description = '', labels = '{}', retention = '{}',
        removed_at = now()
    WHERE policy_id = $1
"""
MAX_HOLDERS = 5
"""Maximum holders of a policy that its refusal names."""
_DESCRIBE = """
    UPDATE policies SET description = $2, labels = $3, retention = $4, changed = $5 WHERE policy_id = $1
"""
_LABEL = """
    INSERT INTO policy_labels (policy_id, label, value, tenant_id, name)
    SELECT policy_id, given.label, given.value, tenant_id, name
    FROM policies, unnest($2::text[], $3::text[]) AS given (label, value) WHERE policy_id = $1
"""
_LABELLED = """
    EXISTS (SELECT FROM policy_labels other WHERE other.policy_id = policies.policy_id
            AND other.label = ${label} AND other.value = ${value})
"""
_CREATED_AT = "SELECT created_at FROM policies WHERE tenant_id = $1 AND name = $2"


async def insert_policy(connection: PostgresConnection, policy: PolicyRecord) -> None:
    """Insert a new policy. Raises as `PostgresCatalog.add_policy`."""
    try:
        added = await connection.fetchval(
            _ADD,
            policy.policy_id,
            policy.tenant_id,
            policy.name,
            policy.base,
            msgspec.to_builtins(policy.lora),
            policy.created_at,
            policy.description,
            policy.labels,
            retention_row(policy),
        )
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExists(kind="policy", name=policy.name) from error
    except asyncpg.ForeignKeyViolationError as error:
        if error.constraint_name == "policies_base_fkey":
            raise NotFound(kind="base", name=policy.base) from error
        raise NotFound(kind="tenant", name=policy.tenant_id) from error
    if added is None:
        raise InvalidField(field="name", problem=f"{policy.name!r} is the name of a base")
    await _insert_labels(connection, policy)


async def locked_policy(connection: PostgresConnection, policy_id: PolicyId) -> PolicyRecord:
    """Return a policy, locked until the transaction ends. Raises NotFound."""
    return policy_of(found(await connection.fetchrow(_LOCKED, policy_id), "policy", policy_id))


async def describe_policy(connection: PostgresConnection, policy: PolicyRecord) -> None:
    """Store a policy's description, labels and retention, and index the labels."""
    await connection.execute(
        _DESCRIBE,
        policy.policy_id,
        policy.description,
        policy.labels,
        retention_row(policy),
        policy.changed,
    )
    await connection.execute("DELETE FROM policy_labels WHERE policy_id = $1", policy.policy_id)
    await _insert_labels(connection, policy)


async def remove_policy(connection: PostgresConnection, policy: PolicyRecord) -> None:
    """Remove a locked policy: no name leads to it or to its revisions, whose rows stay. Raises InUse."""
    if rows := await connection.fetch(_HOLDERS, policy.policy_id, MAX_HOLDERS):
        held_by = ", ".join(row["holder"] for row in rows)
        raise InUse(what=f"Policy {policy.name!r}", held_by=f"remove first what holds it: {held_by}")
    await connection.execute(_RETIRE_ALL, policy.policy_id)
    await connection.execute("DELETE FROM policy_labels WHERE policy_id = $1", policy.policy_id)
    await connection.execute(_REMOVE, policy.policy_id)
    await connection.execute("SELECT count_usage($1, -1, 0, 0, 0)", policy.tenant_id)


async def _insert_labels(connection: PostgresConnection, policy: PolicyRecord) -> None:
    """Index the labels of a policy for lists."""
    if policy.labels:
        labels, values = list(policy.labels), list(policy.labels.values())
        await connection.execute(_LABEL, policy.policy_id, labels, values)


def retention_row(policy: PolicyRecord) -> dict[str, int]:
    """Return a policy's retention as its column holds it: without bounds that are None."""
    row: dict[str, int | None] = msgspec.to_builtins(policy.retention)
    return {name: kept for name, kept in row.items() if kept is not None}


_AFTER_NAMES = "~"
"""A character that sorts behind all characters of a policy's name."""


async def list_policies(
    pool: asyncpg.Pool, tenant_id: TenantId, wanted: PolicyFilter, *, limit: int, after: str | None
) -> Sequence[PolicyRecord]:
    """Return a page of a tenant's policies; ``after`` is a name. Raises InvalidField when it is unknown."""
    created_at = None
    if after is not None and wanted.is_by_time:
        created_at = await pool.fetchval(_CREATED_AT, tenant_id, after)
        if created_at is None:
            raise InvalidField(field="after", problem=f"the tenant has no policy {after!r}")
    query, arguments = list_query(tenant_id, wanted, limit=limit, after=after or "", created_at=created_at)
    return [policy_of(row) for row in await pool.fetch(query, *arguments)]


def _with_prefix(column: str, prefix: str, given: Callable[[object], str]) -> list[str]:
    """Return the conditions for names that begin with a prefix, as a range of the index of names."""
    last = prefix + _AFTER_NAMES
    return [f"{column} >= {given(prefix)}", f"{column} < {given(last)}"] if prefix else []


def list_query(
    tenant_id: TenantId, wanted: PolicyFilter, *, limit: int, after: str, created_at: object
) -> tuple[str, list[object]]:
    """Return the query of a page and its arguments.

    ``created_at`` is the creation time of the cursor's policy. By name, the first label's index drives the
    query, because it is ordered by name too. By time, labels are looked up.
    """
    arguments: list[object] = [tenant_id, limit]

    def given(value: object) -> str:
        arguments.append(value)
        return f"${len(arguments)}"

    leading = wanted.labels[:1] if not wanted.is_by_time else ()
    source, order, where = "policies", "name", ["policies.tenant_id = $1"]
    for label, value in leading:
        source = "policy_labels first JOIN policies USING (policy_id)"
        order = "first.name"
        where = [f"first.tenant_id = $1 AND first.label = {given(label)} AND first.value = {given(value)}"]
    for label, value in wanted.labels[len(leading) :]:
        where.append(_LABELLED.replace("${label}", given(label)).replace("${value}", given(value)))
    name = "first.name" if leading else "policies.name"
    where += ["removed_at IS NULL", *_with_prefix(name, wanted.prefix, given)]
    if wanted.base is not None:
        where.append(f"base = {given(wanted.base)}")
    if wanted.has_revision is not None:
        where.append(f"is_published = {wanted.has_revision}")
    if wanted.created_after is not None:
        where.append(f"created_at >= {given(wanted.created_after)}")
    if wanted.created_before is not None:
        where.append(f"created_at < {given(wanted.created_before)}")
    if not wanted.is_by_time:
        where.append(f"{order} > {given(after)}")
    else:
        order = "created_at, name"
        if created_at is not None:
            where.append(f"(created_at, name) > ({given(created_at)}, {given(after)})")
    page = f"SELECT policies.* FROM {source} WHERE {' AND '.join(where)} ORDER BY {order} LIMIT $2"  # noqa: S608  # texts of this file
    kept = "policy.created_at, policy.name" if wanted.is_by_time else "policy.name"
    query = f"SELECT policy.*, newest.* FROM ({page}) policy {NEWEST} ORDER BY {kept}"  # noqa: S608  # as above
    return query, arguments
