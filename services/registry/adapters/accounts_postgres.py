"""Tenants and keys in Postgres."""

from collections.abc import Sequence
from typing import NoReturn

import asyncpg

from mint_common.authority import Authority, held_scopes
from mint_common.catalog import KeyOwner, KeyRecord, TenantRecord
from mint_common.errors import AlreadyExists, NotFound, Unauthorized
from mint_common.ids import TenantId
from mint_common.names import MAX_LIMIT
from mint_common.quotas import QuotaUse
from mint_common.runtime.postgres import from_row
from mint_common.runtime.postgres_errors import acquired
from services.registry.adapters.quotas_postgres import check_room, read_usage
from services.registry.adapters.rows import found
from services.registry.core.keys import KEY_UNKNOWN, StoredKey
from services.registry.core.quotas import UNBOUNDED, CatalogQuotas

_ADD_TENANT = """
    INSERT INTO tenants (tenant_id, name, created_at) VALUES ($1, $2, $3)
    ON CONFLICT (name) DO UPDATE SET name = tenants.name
    RETURNING *
"""
_PUT_KEY = """
    INSERT INTO api_keys (key_id, tenant_id, name, shown, key_hash, created_at, scopes)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (key_id) DO UPDATE SET tenant_id = $2, name = $3, shown = $4, key_hash = $5, scopes = $7,
        revoked_at = CASE WHEN api_keys.key_hash = $5 THEN api_keys.revoked_at END
"""
# Each of these three checks, in the same statement, that the key behind the request is not revoked.
_ADD_KEY = """
    INSERT INTO api_keys (key_id, tenant_id, name, shown, key_hash, created_at, scopes)
    SELECT $1, $2, $3, $4, $5, $6, $7
    WHERE EXISTS (SELECT FROM api_keys WHERE key_id = $8 AND revoked_at IS NULL)
    RETURNING key_id
"""
_REVOKE_KEY = """
    UPDATE api_keys SET revoked_at = coalesce(revoked_at, $3)
    WHERE tenant_id = $1 AND key_id = $2 AND scopes <@ $4::text[]
        AND EXISTS (SELECT FROM api_keys WHERE key_id = $5 AND revoked_at IS NULL)
    RETURNING key_id
"""
_REPLACE_KEY = """
    UPDATE api_keys SET key_hash = $3, shown = $4
    WHERE tenant_id = $1 AND key_id = $2 AND revoked_at IS NULL AND scopes <@ $5::text[]
        AND EXISTS (SELECT FROM api_keys WHERE key_id = $6 AND revoked_at IS NULL)
    RETURNING *
"""
# At most one write a minute for each key.
_USE = """
    UPDATE api_keys SET last_used_at = $2
    WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < $2::timestamptz - interval '1 minute')
"""


class PostgresAccounts:
    """Tenants and their keys. Each method is one atomic step."""

    def __init__(self, pool: asyncpg.Pool, quotas: CatalogQuotas = UNBOUNDED) -> None:
        self._pool = pool
        self._quotas = quotas

    async def add_tenant(self, tenant: TenantRecord) -> TenantRecord:
        """Store a tenant, or return the one that has its name already."""
        row = await self._pool.fetchrow(_ADD_TENANT, tenant.tenant_id, tenant.name, tenant.created_at)
        assert row is not None, "an upsert returns its row"
        return from_row(row, TenantRecord)

    async def put_key(self, key: StoredKey) -> None:
        """Store a key, replacing the one of the same id. Raises NotFound for an unknown tenant.

        A different key under the id of a revoked one is valid; the revoked key itself stays revoked.
        """
        try:
            await self._pool.execute(_PUT_KEY, *_values(key))
        except asyncpg.ForeignKeyViolationError as error:
            raise NotFound(kind="tenant", name=key.tenant_id) from error
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists(kind="key", name=key.shown) from error

    async def add_key(self, key: StoredKey, by: Authority) -> None:
        """Store a new key. Raises NotFound for an unknown tenant, and as `Authority.check_grant`.

        Raises Unauthorized when the request's own key has been revoked, QuotaExceeded.
        """
        by.check_grant(key.scopes, tenant_id=key.tenant_id)
        async with acquired(self._pool) as connection, connection.transaction():
            await check_room(connection, key.tenant_id, self._quotas, "keys")
            if await connection.fetchval(_ADD_KEY, *_values(key), by.key_id) is None:
                raise Unauthorized(problem=KEY_UNKNOWN)

    async def owner_of(self, key_hash: bytes, *, now: float) -> KeyOwner | None:
        """Return the owner of the key with this hash, None when it is unknown or revoked; record the use."""
        row = await self._pool.fetchrow(
            "SELECT tenant_id, key_id, name, scopes FROM api_keys WHERE key_hash = $1 AND revoked_at IS NULL",
            key_hash,
        )
        if row is None:
            return None
        await self._pool.execute(_USE, row["key_id"], now)
        return from_row(row, KeyOwner)

    async def keys(
        self, tenant_id: TenantId, *, limit: int = MAX_LIMIT, after: str | None = None
    ) -> Sequence[KeyRecord]:
        """Return a tenant's keys by id, revoked ones too."""
        query = "SELECT * FROM api_keys WHERE tenant_id = $1 AND key_id > $2 ORDER BY key_id LIMIT $3"
        return [
            from_row(row, KeyRecord) for row in await self._pool.fetch(query, tenant_id, after or "", limit)
        ]

    async def key(self, tenant_id: TenantId, key_id: str) -> KeyRecord:
        """Return a key of a tenant, a revoked one too. Raises NotFound."""
        query = "SELECT * FROM api_keys WHERE tenant_id = $1 AND key_id = $2"
        row = await self._pool.fetchrow(query, tenant_id, key_id)
        return from_row(found(row, "key", key_id), KeyRecord)

    async def revoke_key(self, tenant_id: TenantId, key_id: str, by: Authority, *, now: float) -> None:
        """Revoke a key. Idempotent. Raises NotFound, and as `add_key`."""
        by.check_grant((), tenant_id=tenant_id)
        held = held_scopes(by.scopes)
        if await self._pool.fetchval(_REVOKE_KEY, tenant_id, key_id, now, held, by.key_id) is None:
            await self._refuse(tenant_id, key_id, by)

    async def replace_key(self, key: StoredKey, by: Authority) -> KeyRecord:
        """Replace the hash of a tenant's key that is not revoked; nothing else changes.

        Raises NotFound, and as `add_key`.
        """
        by.check_grant((), tenant_id=key.tenant_id)
        held = held_scopes(by.scopes)
        row = await self._pool.fetchrow(
            _REPLACE_KEY, key.tenant_id, key.key_id, key.key_hash, key.shown, held, by.key_id
        )
        if row is None:
            await self._refuse(key.tenant_id, key.key_id, by)
        return from_row(row, KeyRecord)

    async def tenants(self, *, limit: int, after: str | None) -> Sequence[TenantRecord]:
        """Return tenants by name."""
        query = "SELECT * FROM tenants WHERE name > $1 ORDER BY name LIMIT $2"
        return [from_row(row, TenantRecord) for row in await self._pool.fetch(query, after or "", limit)]

    async def usage(self, tenant_id: TenantId) -> Sequence[QuotaUse]:
        """Return what a tenant has in the catalog, and may have. Raises NotFound."""
        return await read_usage(self._pool, tenant_id, self._quotas)

    async def _refuse(self, tenant_id: TenantId, key_id: str, by: Authority) -> NoReturn:
        """Raise the reason why a statement changed no key."""
        query = (
            "SELECT key_id, scopes, revoked_at FROM api_keys "
            "WHERE key_id = $1 OR (tenant_id = $2 AND key_id = $3)"
        )
        rows = {row["key_id"]: row for row in await self._pool.fetch(query, by.key_id, tenant_id, key_id)}
        if by.key_id not in rows or rows[by.key_id]["revoked_at"] is not None:
            raise Unauthorized(problem=KEY_UNKNOWN)
        if key_id in rows and rows[key_id]["revoked_at"] is None:
            by.check_grant(rows[key_id]["scopes"], tenant_id=tenant_id)
        raise NotFound(kind="key", name=key_id)


def _values(key: StoredKey) -> tuple[object, ...]:
    return key.key_id, key.tenant_id, key.name, key.shown, key.key_hash, key.created_at, key.scopes
