"""Tenants' use, counted by triggers, compared with their quotas."""

from dataclasses import asdict

from mint_common.errors import NotFound
from mint_common.ids import TenantId
from mint_common.runtime.postgres import from_row
from mint_common.runtime.postgres_errors import PostgresConnection
from services.registry.core.quotas import CatalogQuotas, Kind

_BEGIN = """
    INSERT INTO tenant_usage (tenant_id) SELECT tenant_id FROM tenants WHERE tenant_id = $1
    ON CONFLICT DO NOTHING
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
    row = await connection.fetchrow(_LOCK, tenant_id)
    if row is None:
        raise NotFound(kind="tenant", name=tenant_id)
    usage = from_row({name: row[name] for name in asdict(quotas)}, CatalogQuotas)
    quotas.with_own(row["quotas"]).check(usage, *kinds)
