"""Tenants and keys in memory."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from mint_common.authority import Authority
from mint_common.catalog import (
    KeyOwner,
    KeyRecord,
    TenantRecord,
)
from mint_common.errors import AlreadyExists, NotFound, Unauthorized
from mint_common.ids import TenantId
from services.registry.adapters.memory_tables import Tables
from services.registry.core.keys import KEY_UNKNOWN, StoredKey
from services.registry.ports import PAGE

_USE_SECONDS = 60.0


class MemoryAccounts:
    """See `ports.Accounts`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add_tenant(self, tenant: TenantRecord) -> TenantRecord:
        """Store a tenant, or return the one that has its name already."""
        return self._tables.tenants.setdefault(tenant.name, tenant)

    async def put_key(self, key: StoredKey) -> None:
        """Store a key, replacing the one of the same id."""
        if all(tenant.tenant_id != key.tenant_id for tenant in self._tables.tenants.values()):
            raise NotFound(kind="tenant", name=key.tenant_id)
        others = [other for other in self._tables.keys.values() if other.key_id != key.key_id]
        if any(other.key_hash == key.key_hash for other in others):
            raise AlreadyExists(kind="key", name=key.shown)
        known = self._tables.keys.get(key.key_id)
        if known is not None and known.key_hash != key.key_hash:
            self._tables.revoked.pop(key.key_id, None)
        self._tables.keys[key.key_id] = key

    async def add_key(self, key: StoredKey, by: Authority) -> None:
        """Store a new key."""
        by.check_grant(key.scopes, tenant_id=key.tenant_id)
        self._check_alive(by)
        await self.put_key(key)

    async def owner_of(self, key_hash: bytes, *, now: float) -> KeyOwner | None:
        """Return whose key has this hash, unless it is revoked."""
        for key in self._tables.keys.values():
            if key.key_hash == key_hash and key.key_id not in self._tables.revoked:
                if now - self._tables.used.get(key.key_id, -inf) > _USE_SECONDS:
                    self._tables.used[key.key_id] = now
                return KeyOwner(tenant_id=key.tenant_id, key_id=key.key_id, name=key.name, scopes=key.scopes)
        return None

    async def keys(
        self, tenant_id: TenantId, *, limit: int = PAGE, after: str | None = None
    ) -> Sequence[KeyRecord]:
        """Return a tenant's keys by id."""
        own = [key for _, key in sorted(self._tables.keys.items()) if key.tenant_id == tenant_id]
        return [self._record(key) for key in own if key.key_id > (after or "")][:limit]

    async def revoke_key(self, tenant_id: TenantId, key_id: str, by: Authority, *, now: float) -> None:
        """Let a key open nothing any more."""
        self._own(tenant_id, key_id, by)
        self._tables.revoked.setdefault(key_id, now)

    async def replace_key(self, key: StoredKey, by: Authority) -> KeyRecord:
        """Give a tenant's key another hash."""
        known = self._own(key.tenant_id, key.key_id, by)
        if key.key_id in self._tables.revoked:
            raise NotFound(kind="key", name=key.key_id)
        self._tables.keys[key.key_id] = replace(known, key_hash=key.key_hash, shown=key.shown)
        return self._record(self._tables.keys[key.key_id])

    async def tenants(self, *, limit: int, after: str | None) -> Sequence[TenantRecord]:
        """Return tenants by name."""
        return [tenant for name, tenant in sorted(self._tables.tenants.items()) if name > (after or "")][
            :limit
        ]

    def _own(self, tenant_id: TenantId, key_id: str, by: Authority) -> StoredKey:
        """Return a key that somebody may change."""
        self._check_alive(by)
        key = self._tables.keys.get(key_id)
        if key is None or key.tenant_id != tenant_id:
            raise NotFound(kind="key", name=key_id)
        by.check_grant(key.scopes, tenant_id=tenant_id)
        return key

    def _check_alive(self, by: Authority) -> None:
        if by.key_id not in self._tables.keys or by.key_id in self._tables.revoked:
            raise Unauthorized(problem=KEY_UNKNOWN)

    def _record(self, key: StoredKey) -> KeyRecord:
        return KeyRecord(
            key_id=key.key_id,
            tenant_id=key.tenant_id,
            name=key.name,
            shown=key.shown,
            scopes=key.scopes,
            created_at=key.created_at,
            last_used_at=self._tables.used.get(key.key_id),
            revoked_at=self._tables.revoked.get(key.key_id),
        )
