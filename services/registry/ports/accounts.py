"""Tenants and their keys."""

from collections.abc import Sequence
from typing import Protocol

from mint_common.authority import Authority
from mint_common.catalog import KeyOwner, KeyRecord, TenantRecord
from mint_common.ids import TenantId
from services.registry.core.keys import StoredKey

PAGE = 1000
"""How many aliases or keys one answer holds, unless it is asked for fewer."""


class Accounts(Protocol):
    """Tenants and their keys."""

    async def add_tenant(self, tenant: TenantRecord) -> TenantRecord:
        """Store a tenant, or return the one that has its name already."""
        ...

    async def put_key(self, key: StoredKey) -> None:
        """Store a key, replacing the one of the same id. Raises NotFound for an unknown tenant.

        A different key under the id of a revoked one is valid; the revoked key itself stays revoked.
        """
        ...

    async def add_key(self, key: StoredKey, by: Authority) -> None:
        """Store a new key. Raises NotFound for an unknown tenant, and as `Authority.check_grant`.

        Raises Unauthorized when the key behind the request is revoked by now; so do the two below.
        """
        ...

    async def owner_of(self, key_hash: bytes, *, now: float) -> KeyOwner | None:
        """Return the owner of the key with this hash, None when it is unknown or revoked; record the use."""
        ...

    async def keys(
        self, tenant_id: TenantId, *, limit: int = PAGE, after: str | None = None
    ) -> Sequence[KeyRecord]:
        """Return a tenant's keys by id, revoked ones too."""
        ...

    async def key(self, tenant_id: TenantId, key_id: str) -> KeyRecord:
        """Return a key of a tenant, a revoked one too. Raises NotFound."""
        ...

    async def revoke_key(self, tenant_id: TenantId, key_id: str, by: Authority, *, now: float) -> None:
        """Revoke a key. Idempotent. Raises NotFound, and as `add_key`."""
        ...

    async def replace_key(self, key: StoredKey, by: Authority) -> KeyRecord:
        """Replace the hash of a tenant's key that is not revoked; nothing else changes.

        Raises NotFound, and as `add_key`.
        """
        ...

    async def tenants(self, *, limit: int, after: str | None) -> Sequence[TenantRecord]:
        """Return tenants by name."""
        ...
