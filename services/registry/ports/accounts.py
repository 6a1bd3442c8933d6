"""Tenants and their keys."""

from typing import Protocol

from mint_common.catalog import TenantRecord
from services.registry.core.keys import StoredKey


class Accounts(Protocol):
    """Store of the first tenant and its key."""

    async def add_tenant(self, tenant: TenantRecord) -> TenantRecord:
        """Store a tenant, or return the one that has its name already."""
        ...

    async def put_key(self, key: StoredKey) -> None:
        """Store a key, replacing the one of the same id. Raises NotFound for an unknown tenant.

        A different key under the id of a revoked one is valid; the revoked key itself stays revoked.
        """
        ...
