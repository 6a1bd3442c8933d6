"""Tenants and keys in Postgres."""

import asyncpg

from mint_common.catalog import KeyOwner, TenantRecord
from mint_common.errors import AlreadyExists, NotFound
from services.registry.adapters.rows import moment, tenant_of
from services.registry.core.keys import StoredKey

_ADD_TENANT = """
    INSERT INTO tenants (tenant_id, name, created_at) VALUES ($1, $2, $3)
    ON CONFLICT (name) DO UPDATE SET name = tenants.name
    RETURNING *
"""
_PUT_KEY = """
    INSERT INTO api_keys (key_id, tenant_id, name, shown, key_hash, created_at)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (key_id) DO UPDATE SET tenant_id = $2, name = $3, shown = $4, key_hash = $5
"""


class PostgresAccounts:
    """See `ports.Accounts`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def add_tenant(self, tenant: TenantRecord) -> TenantRecord:
        """Store a tenant, or return the one that has its name already."""
        row = await self._pool.fetchrow(_ADD_TENANT, tenant.tenant_id, tenant.name, moment(tenant.created_at))
        assert row is not None, "an upsert returns its row"
        return tenant_of(row)

    async def put_key(self, key: StoredKey) -> None:
        """Store a key, replacing the one of the same id."""
        created_at = moment(key.created_at)
        try:
            await self._pool.execute(
                _PUT_KEY, key.key_id, key.tenant_id, key.name, key.shown, key.key_hash, created_at
            )
        except asyncpg.ForeignKeyViolationError as error:
            raise NotFound(kind="tenant", name=key.tenant_id) from error
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists(kind="key", name=key.shown) from error

    async def owner_of(self, key_hash: bytes) -> KeyOwner | None:
        """Return whose key has this hash."""
        row = await self._pool.fetchrow(
            "SELECT tenant_id, key_id, name FROM api_keys WHERE key_hash = $1", key_hash
        )
        return KeyOwner(**row) if row else None
