"""The first tenant and its key, with which all others are created."""

from mint_common.catalog import FULL_SCOPES, TenantRecord
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from services.registry.adapters.accounts_postgres import PostgresAccounts
from services.registry.core.keys import stored_key

DEFAULT_TENANT = TenantId("default")
_BOOTSTRAP_KEY_ID = "key_bootstrap"


async def bootstrap(accounts: PostgresAccounts, key: str, clock: Clock) -> None:
    """Create the default tenant with this key, which replaces an earlier bootstrap key. Idempotent."""
    now = clock.now()
    tenant = await accounts.add_tenant(
        TenantRecord(tenant_id=DEFAULT_TENANT, name=DEFAULT_TENANT, created_at=now)
    )
    stored = stored_key(
        key,
        key_id=_BOOTSTRAP_KEY_ID,
        tenant_id=tenant.tenant_id,
        name="bootstrap",
        now=now,
        scopes=(*FULL_SCOPES, "operator"),
    )
    await accounts.put_key(stored)
