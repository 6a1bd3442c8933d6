"""Rows of the checkpoints that clients named, in Postgres.

Invariant: bytes are called unused only when, in the transaction that deletes a row, no other row names them.
"""

from collections.abc import Sequence

import asyncpg
import msgspec
from msgspec.structs import replace

from mint_common.claims import Claim
from mint_common.errors import AlreadyExists
from mint_common.ids import PolicyId, TenantId
from mint_common.runtime.postgres import columns_of, from_row, insert_of, values_of
from mint_common.runtime.postgres_errors import PostgresConnection, acquired
from mint_common.training import CheckpointRecord, CheckpointRef, CheckpointSummary, PolicySummary
from services.trainer.core.operations import check_readable, missing_checkpoint, read_cursor

_COLUMNS = columns_of(CheckpointRecord)
_PUT = insert_of("checkpoints", CheckpointRecord) + " ON CONFLICT DO NOTHING"
_ONE = "policy_id = $1 AND kind = $2 AND name = $3 AND (expires_at IS NULL OR expires_at > $4)"
_GET = f"SELECT {_COLUMNS} FROM checkpoints WHERE {_ONE}"  # noqa: S608  # constants
_LIST = f"""
    SELECT {_COLUMNS} FROM checkpoints
    WHERE tenant_id = $1 AND ($2::text IS NULL OR policy_id = $2) AND (expires_at IS NULL OR expires_at > $3)
        AND ($4::double precision IS NULL OR (created_at, policy_id, kind, name) < ($4, $5, $6, $7))
    ORDER BY created_at DESC, policy_id DESC, kind DESC, name DESC LIMIT $8
"""  # noqa: S608  # constants
_SUMMARIES = f"""
    SELECT DISTINCT ON (policy_id, kind) {_COLUMNS},
        count(*) OVER one AS count, (sum((claim ->> 'size_bytes')::bigint) OVER one)::bigint AS size_bytes
    FROM checkpoints WHERE policy_id = ANY($1) AND (expires_at IS NULL OR expires_at > $2)
    WINDOW one AS (PARTITION BY policy_id, kind)
    ORDER BY policy_id, kind, created_at DESC, name DESC
"""  # noqa: S608  # constants
_LAST_OPERATIONS = """
    SELECT policy_id, last_operation_at FROM training WHERE policy_id = ANY($1) AND NOT is_managed
"""
_DELETE = f"DELETE FROM checkpoints WHERE {_ONE} RETURNING kind, claim"  # noqa: S608  # constants
_DELETE_OLD = """
    DELETE FROM checkpoints WHERE policy_id = $1 AND kind = $2 AND name = $3
        AND ($4::double precision IS NULL OR expires_at <= $4)
    RETURNING kind, claim
"""
_DELETE_EXPIRED = """
    DELETE FROM checkpoints WHERE (policy_id, kind, name) IN (
        SELECT policy_id, kind, name FROM checkpoints WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED
    ) RETURNING kind, claim
"""


class PostgresCheckpointRows:
    """Checkpoints that clients named. Expired ones are as good as deleted."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def get(self, ref: CheckpointRef, *, now: float) -> CheckpointRecord:
        """Return one. Raises NotFound."""
        return _found(await self._pool.fetchrow(_GET, *_key(ref), now), ref)

    async def page(
        self, tenant_id: TenantId, *, policy_id: PolicyId | None, limit: int, after: str | None, now: float
    ) -> list[CheckpointRecord]:
        """Return a tenant's, newest first, those after a cursor."""
        position = (None, None, None, None) if after is None else read_cursor(after)
        rows = await self._pool.fetch(_LIST, tenant_id, policy_id, now, *position, limit)
        return [from_row(row, CheckpointRecord) for row in rows]

    async def summaries(self, policies: Sequence[PolicyId], *, now: float) -> dict[PolicyId, PolicySummary]:
        """Return what lists show of policies, of those that clients train or that have checkpoints."""
        trained = await self._pool.fetch(_LAST_OPERATIONS, policies)
        found = {PolicyId(row["policy_id"]): PolicySummary(row["last_operation_at"]) for row in trained}
        for row in await self._pool.fetch(_SUMMARIES, policies, now):
            kind = CheckpointSummary(from_row(row, CheckpointRecord), row["count"], row["size_bytes"])
            before = found.get(kind.newest.policy_id, PolicySummary())
            found[kind.newest.policy_id] = replace(before, checkpoints=(*before.checkpoints, kind))
        return found

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
        async with acquired(self._pool) as connection, connection.transaction():
            found = _found(await connection.fetchrow(f"{_GET} FOR SHARE", *_key(source), now), source)
            check_readable(found, tenant_id)
            copied = msgspec.structs.replace(
                found,
                policy_id=target.policy_id,
                tenant_id=tenant_id,
                name=target.name,
                created_at=now,
                expires_at=expires_at,
                is_public=False,
            )
            try:
                await put_checkpoint(connection, copied, replaces=False)
            except AlreadyExists:
                there = await connection.fetchrow(_GET, *_key(target), now)
                if there is None or not _is_same(from_row(there, CheckpointRecord), copied):
                    raise
                return from_row(there, CheckpointRecord)
            return copied

    async def expire(self, ref: CheckpointRef, *, expires_at: float | None, now: float) -> CheckpointRecord:
        """Set when one expires. Raises NotFound."""
        query = f"UPDATE checkpoints SET expires_at = $5 WHERE {_ONE} RETURNING {_COLUMNS}"  # noqa: S608
        return _found(await self._pool.fetchrow(query, *_key(ref), now, expires_at), ref)

    async def publish(self, ref: CheckpointRef, *, is_public: bool, now: float) -> CheckpointRecord:
        """Set whether other tenants may read one. Raises NotFound."""
        query = f"UPDATE checkpoints SET is_public = $5 WHERE {_ONE} RETURNING {_COLUMNS}"  # noqa: S608
        return _found(await self._pool.fetchrow(query, *_key(ref), now, is_public), ref)

    async def delete(self, ref: CheckpointRef, *, now: float) -> list[Claim]:
        """Delete one; return its bytes if no other row uses them. Raises NotFound."""
        async with acquired(self._pool) as connection, connection.transaction():
            row = await connection.fetchrow(_DELETE, *_key(ref), now)
            if row is None:
                raise missing_checkpoint(ref)
            return await _unused(connection, [row])

    async def delete_expired(self, *, now: float, limit: int) -> list[Claim]:
        """Delete expired checkpoints; return the bytes that no other row uses."""
        async with acquired(self._pool) as connection, connection.transaction():
            return await _unused(connection, await connection.fetch(_DELETE_EXPIRED, now, limit))


async def put_checkpoint(
    connection: PostgresConnection, checkpoint: CheckpointRecord, *, replaces: bool
) -> list[Claim]:
    """Write a row within a transaction; return bytes that are unused now. Raises AlreadyExists."""
    # What has expired is as good as deleted, and so its name is free.
    expired_at = None if replaces else checkpoint.created_at
    name = (checkpoint.policy_id, checkpoint.kind, checkpoint.name)
    gone = await connection.fetch(_DELETE_OLD, *name, expired_at)
    status = await connection.execute(_PUT, *values_of(checkpoint))
    if not status.endswith(" 1"):
        raise AlreadyExists(kind="checkpoint", name=checkpoint.name)
    return await _unused(connection, gone)


async def _unused(connection: PostgresConnection, rows: Sequence[asyncpg.Record]) -> list[Claim]:
    """Return the bytes of deleted rows that no row uses; a revision's belong to the registry."""
    claims = {row["claim"]["uri"]: row["claim"] for row in rows if row["kind"] == "training"}
    query = "SELECT DISTINCT claim ->> 'uri' FROM checkpoints WHERE claim ->> 'uri' = ANY($1)"
    used = {row[0] for row in await connection.fetch(query, list(claims))} if claims else set()
    return [msgspec.convert(claim, Claim) for uri, claim in claims.items() if uri not in used]


def _key(ref: CheckpointRef) -> tuple[str, str, str]:
    return ref.policy_id, ref.kind, ref.name


def _is_same(one: CheckpointRecord, other: CheckpointRecord) -> bool:
    return (one.tenant_id, one.claim) == (other.tenant_id, other.claim)


def _found(row: asyncpg.Record | None, ref: CheckpointRef) -> CheckpointRecord:
    if row is None:
        raise missing_checkpoint(ref)
    return from_row(row, CheckpointRecord)
