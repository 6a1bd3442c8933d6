"""Tenants' use, counted by triggers, compared with their quotas."""

from dataclasses import asdict

import asyncpg

from mint_common.errors import NotFound
from mint_common.ids import TenantId
from mint_common.quotas import QuotaUse
from mint_common.runtime.postgres import from_row
from mint_common.runtime.postgres_errors import PostgresConnection
from services.registry.core.quotas import CatalogQuotas, Kind

_BEGIN = """
    INSERT INTO tenant_usage (tenant_id) SELECT tenant_id FROM tenants WHERE tenant_id = $1
    ON CONFLICT DO NOTHING
"""
_USAGE = """
    SELECT usage.*, quotas FROM tenants LEFT JOIN tenant_usage usage USING (tenant_id) WHERE tenant_id = $1
"""
_LOCK = """
    SELECT usage.*, quotas FROM tenant_usage usage JOIN tenants USING (tenant_id)
    WHERE tenant_id = $1 FOR UPDATE OF usage
"""


async def check_room(
    connection: PostgresConnection, tenant_id: TenantId, quotas: CatalogQuotas, *kinds: Kind
) -> None:
    """Refuse one more of these to a tenant, until the transaction ends the only one that adds any.

    Raises QuotaExceeded, NotFound for an unknown tenant.
    """
    await connection.execute(_BEGIN, tenant_id)
    _check(await connection.fetchrow(_LOCK, tenant_id), tenant_id, quotas, *kinds)


async def check_usage(
    pool: "asyncpg.Pool[asyncpg.Record]", tenant_id: TenantId, quotas: CatalogQuotas, *kinds: Kind
) -> None:
    """Refuse one more of these to a tenant as it is now; nothing is locked, and others may add some.

    Raises QuotaExceeded, NotFound for an unknown tenant.
    """
    _check(await pool.fetchrow(_USAGE, tenant_id), tenant_id, quotas, *kinds)


async def read_usage(
    pool: "asyncpg.Pool[asyncpg.Record]", tenant_id: TenantId, quotas: CatalogQuotas
) -> list[QuotaUse]:
    """Return what a tenant has and may have. Raises NotFound for an unknown tenant."""
    usage, limits = _read(await pool.fetchrow(_USAGE, tenant_id), tenant_id, quotas)
    return limits.uses(usage)


def _check(row: asyncpg.Record | None, tenant_id: TenantId, quotas: CatalogQuotas, *kinds: Kind) -> None:
    usage, limits = _read(row, tenant_id, quotas)
    limits.check(usage, *kinds)


def _read(
    row: asyncpg.Record | None, tenant_id: TenantId, quotas: CatalogQuotas
) -> tuple[CatalogQuotas, CatalogQuotas]:
    """Return a tenant's use and its limits."""
    if row is None:
        raise NotFound(kind="tenant", name=tenant_id)
    usage = from_row({name: row[name] or 0 for name in asdict(quotas)}, CatalogQuotas)
    return usage, quotas.with_own(row["quotas"])
