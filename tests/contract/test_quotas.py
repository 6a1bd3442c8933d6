"""A tenant has no more of the catalog than it may; what is removed counts no more."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from contract.catalog_rig import (
    NOW,
    OTHER,
    TENANT,
    Store,
    add_authority,
    add_policy,
    export_of,
    fill,
    store_over,
)
from contract.schemas import empty_schema

from mint_common.events import RevisionPublished
from mint_common.quotas import QuotaExceeded
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.ledger_postgres import PostgresLedger
from services.registry.adapters.accounts_postgres import PostgresAccounts
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.core.keys import stored_key
from services.registry.core.quotas import CatalogQuotas

pytestmark = pytest.mark.integration

QUOTAS = CatalogQuotas(policies=3, keys=2, adapters=3, adapter_bytes=1000)
USAGE = "SELECT policies, keys, adapters, adapter_bytes FROM tenant_usage WHERE tenant_id = $1"


@pytest.fixture
async def pool(shared_database: str) -> AsyncIterator[asyncpg.Pool]:
    async with empty_schema(shared_database, "registry") as made:
        yield made


@pytest.fixture
async def bounded(pool: asyncpg.Pool) -> Store:
    store, ledger = store_over(pool), PostgresLedger(pool, SystemClock())
    await fill(store)
    return replace(
        store,
        catalog=PostgresCatalog(pool, ledger, QUOTAS),
        accounts=PostgresAccounts(pool, QUOTAS),
    )


async def test_policies_made_at_once_are_no_more_than_a_tenant_may_have(bounded: Store) -> None:
    made = await asyncio.gather(
        *(add_policy(bounded, f"p{number}") for number in range(6)), return_exceptions=True
    )
    refused = [each for each in made if isinstance(each, QuotaExceeded)]
    assert len(refused) == 3
    assert (refused[0].code, refused[0].http_status) == ("quota_exceeded", 422)
    assert "3 policies" in str(refused[0])
    await add_policy(bounded, "p9", OTHER)


async def test_revoked_keys_leave_room_for_others(bounded: Store, pool: asyncpg.Pool) -> None:
    by = await add_authority(bounded, TENANT, "admin")

    def key(name: str):
        return stored_key(name, key_id=f"key_{name}", tenant_id=TENANT, name=name, now=NOW, scopes=("read",))

    await bounded.accounts.add_key(key("one"), by)
    with pytest.raises(QuotaExceeded, match="2 keys"):
        await bounded.accounts.add_key(key("two"), by)
    for _ in range(2):
        await bounded.accounts.revoke_key(TENANT, "key_one", by, now=NOW)
    await bounded.accounts.add_key(key("two"), by)
    assert (await pool.fetchrow(USAGE, TENANT))["keys"] == 2


async def test_adapters_count_until_their_bytes_are_removed(bounded: Store, pool: asyncpg.Pool) -> None:
    policy = await add_policy(bounded)
    for seed in (1, 2):
        await bounded.catalog.settle_export(export_of(policy, seed), None, now=NOW, size_bytes=100)
    await bounded.catalog.publish(export_of(policy, 2, "again"), now=NOW, size_bytes=100)
    await bounded.catalog.publish(export_of(policy, 3), now=NOW, size_bytes=900)
    assert tuple(await pool.fetchrow(USAGE, TENANT)) == (1, 0, 3, 1100)
    for seed in (2, 3):  # equal adapters are there already
        await bounded.catalog.publish(export_of(policy, seed, "once more"), now=NOW, size_bytes=900)
    with pytest.raises(QuotaExceeded, match="3 stored adapters"):
        await bounded.catalog.settle_export(export_of(policy, 4), None, now=NOW, size_bytes=1)
    await bounded.catalog.set_state(policy, 1, "retired")
    assert await bounded.integrity.release_bytes(policy, 1)
    assert tuple(await pool.fetchrow(USAGE, TENANT)) == (1, 0, 2, 1000)
    with pytest.raises(QuotaExceeded, match="bytes of stored adapters"):
        await bounded.catalog.check_room(TENANT, "adapters", "adapter_bytes")
    await bounded.catalog.set_state(policy, 3, "retired")
    assert await bounded.integrity.release_bytes(policy, 3)
    await bounded.catalog.settle_export(export_of(policy, 4), None, now=NOW, size_bytes=1)
    told = [event for event in await bounded.events() if isinstance(event, RevisionPublished)]
    assert max(event.revision.number for event in told) == 4


async def test_a_tenant_may_have_quotas_of_its_own(bounded: Store, pool: asyncpg.Pool) -> None:
    own = {"policies": 1, "keys": 0}
    await pool.execute("UPDATE tenants SET quotas = $2 WHERE tenant_id = $1", TENANT, own)
    await add_policy(bounded)
    with pytest.raises(QuotaExceeded, match="1 policies"):
        await add_policy(bounded, "q")


async def test_a_removed_policy_counts_no_more(pool: asyncpg.Pool) -> None:
    store = store_over(pool)
    await fill(store)
    policy = await add_policy(store)
    await store.catalog.settle_export(export_of(policy, 1), None, now=NOW, size_bytes=10)
    await store.catalog.remove_policy(policy, actor="ada")
    assert tuple(await pool.fetchrow(USAGE, TENANT)) == (0, 0, 1, 10)
    await store.integrity.release_bytes(policy, 1)
    assert tuple(await pool.fetchrow(USAGE, TENANT)) == (0, 0, 0, 0)
