"""What the catalog's contract suite runs on: its stores over Postgres, and things to put there."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from contract.schemas import empty_schema

from mint_common.authority import Authority
from mint_common.catalog import PolicyRecord, Scope, TenantRecord
from mint_common.claims import Claim, RevisionRef
from mint_common.events import Event, LoraSpec, RevisionExported
from mint_common.events.codec import decode
from mint_common.ids import JobId, PolicyId, TenantId, WaveId, derive_id, new_id, sha256_digest
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.ledger_postgres import PostgresLedger
from services.registry.adapters.accounts_postgres import PostgresAccounts
from services.registry.adapters.aliases_postgres import PostgresAliases
from services.registry.adapters.blob_integrity_postgres import PostgresBlobIntegrity
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.adapters.evaluations_postgres import PostgresEvaluations
from services.registry.adapters.owners_postgres import PostgresOwners
from services.registry.adapters.rules_postgres import PostgresRules
from services.registry.core.aliases import Mover
from services.registry.core.keys import stored_key
from tests.testing.adapters import make_base_facts

TENANT, OTHER = TenantId("ten_a"), TenantId("ten_b")
BASE = make_base_facts()
LORA = LoraSpec(rank=2, alpha=4.0, targets=BASE.targets, seed=1)
NOW = 1_700_000_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    accounts: PostgresAccounts
    catalog: PostgresCatalog
    aliases: PostgresAliases
    evaluations: PostgresEvaluations
    rules: PostgresRules
    owners: PostgresOwners
    integrity: PostgresBlobIntegrity
    events: Callable[[], Awaitable[Sequence[Event]]]


@asynccontextmanager
async def open_store(dsn: str) -> AsyncIterator[Store]:
    """Open a catalog that holds two tenants and a base, and nothing of earlier tests."""
    async with empty_schema(dsn, "registry") as pool:
        store = store_over(pool)
        await fill(store)
        yield store


def store_over(pool: asyncpg.Pool) -> Store:
    ledger = PostgresLedger(pool, SystemClock())

    async def events() -> Sequence[Event]:
        return [
            decode(row["data"])[1] for row in await pool.fetch("SELECT data FROM mint_outbox ORDER BY id")
        ]

    return Store(
        accounts=PostgresAccounts(pool),
        catalog=PostgresCatalog(pool, ledger),
        aliases=PostgresAliases(pool, ledger),
        evaluations=PostgresEvaluations(pool, ledger),
        rules=PostgresRules(pool, ledger),
        owners=PostgresOwners(pool),
        integrity=PostgresBlobIntegrity(pool, ledger),
        events=events,
    )


async def add_authority(store: Store, tenant_id: TenantId, *scopes: Scope) -> Authority:
    """Store a key of a tenant, and return what it stands for."""
    key_id = new_id("key")
    key = stored_key(key_id, key_id=key_id, tenant_id=tenant_id, name="asks", now=NOW, scopes=scopes)
    await store.accounts.put_key(key)
    return Authority(tenant_id=tenant_id, key_id=key_id, scopes=frozenset(scopes))


async def fill(store: Store) -> None:
    for tenant_id in (TENANT, OTHER):
        await store.accounts.add_tenant(TenantRecord(tenant_id=tenant_id, name=tenant_id, created_at=NOW))
    await store.catalog.put_base(BASE, now=NOW)


def new_policy(name: str, tenant_id: TenantId = TENANT) -> PolicyRecord:
    policy_id = PolicyId(derive_id("pol", tenant_id, name))
    return PolicyRecord(
        policy_id=policy_id,
        tenant_id=tenant_id,
        name=name,
        base=BASE.name,
        lora=LORA,
        created_at=NOW,
        latest=None,
    )


async def add_policy(store: Store, name: str = "p", tenant_id: TenantId = TENANT) -> PolicyRecord:
    policy = new_policy(name, tenant_id)
    await store.catalog.add_policy(policy)
    return policy


def export_of(policy: PolicyRecord, seed: int, export_id: str = "") -> RevisionExported:
    name = export_id or f"wave_{seed}"
    return RevisionExported(
        tenant_id=policy.tenant_id,
        base=policy.base,
        export_id=name,
        policy_id=policy.policy_id,
        job_id=JobId("job_1"),
        wave_id=WaveId(name),
        digest=sha256_digest(f"{policy.policy_id}{seed}".encode()),
        manifest=Claim(uri=f"revisions/{seed}-{name}", sha256="0" * 64, size_bytes=10),
        parent=None,
        step=seed,
        metrics={"loss": 0.5},
    )


async def publish(store: Store, policy: PolicyRecord, count: int) -> list[RevisionRef]:
    for seed in range(1, count + 1):
        await store.catalog.settle_export(export_of(policy, seed), None, now=NOW + seed)
    return [
        revision.ref for revision in await store.catalog.revisions(policy.policy_id, limit=count, after=0)
    ]


def by(actor: str) -> Mover:
    return Mover(actor=actor, reason="because", at=NOW)
