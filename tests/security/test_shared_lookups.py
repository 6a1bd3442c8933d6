"""What a tenant asks of the registry, however long, holds up no look-up of another's keys or names."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Never

import pytest
from contract.catalog_rig import OTHER, TENANT, Store, add_policy, export_of
from fastapi import FastAPI
from security.gateway_rig import Rig, make_rig
from security.raw_http import serving

from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.errors import NotFound
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.edge import create_http
from mint_common.runtime.edge_routes import include_routes
from mint_common.runtime.fair_gate import LoopGate
from mint_common.tenant_budget import TenantBudget
from services.gateway.adapters.key_checks import KeyChecks
from services.gateway.core.callers import KeyMemory
from services.registry.core.keys import stored_key
from services.registry.handlers.diffs import TENANT_DIFFS, DiffHandler
from services.registry.http import accounts, policies, revisions

FLOOD = 600
NOW = 1_700_000_000.0


class EndlessDiffs(DiffHandler):
    """Compares adapters of any size."""

    async def _compare(self, *_: object) -> Never:
        return await asyncio.get_running_loop().create_future()


def registry_of(store: Store) -> FastAPI:
    """Return the registry's own routes over a store."""
    http = create_http(
        title="registry", service="looked_up", internal_token="t", ready=lambda: True, max_body_bytes=None
    )
    include_routes(http.router, policies.router, accounts.router, revisions.router)
    http.state.parts = SimpleNamespace(
        keys=store.accounts,
        names=store.catalog,
        accounts=store.accounts,
        catalog=store.catalog,
        diffs=EndlessDiffs(catalog=store.catalog, evaluations=store.evaluations, blobs=None),
        clock=SystemClock(),
    )
    return http


@asynccontextmanager
async def gateway_over(registry: FastAPI) -> AsyncIterator[Rig]:
    """Yield the gateway's application, which reaches a registry as `app.run` has it."""
    rig = make_rig()
    gateway = rig.http.state.gateway
    async with serving(registry) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with InternalHttp(url, token="t") as http, InternalHttp(url, token="t") as lookups:
            gateway.registry = RegistryClient(http, lookups=lookups)
            memory = KeyMemory(ttl_seconds=10, capacity=100)
            gateway.keys = KeyChecks(gateway.registry, memory, SystemClock())
            gateway.in_hand = TenantBudget(what="requests", limit=2048)
            gateway.admission = LoopGate(free=1)
            yield rig


@pytest.fixture
async def rig(store: Store) -> AsyncIterator[Rig]:
    for tenant_id in (TENANT, OTHER):
        key = stored_key(
            f"tml-{tenant_id}",
            key_id=f"key_{tenant_id}",
            tenant_id=tenant_id,
            name="k",
            now=NOW,
            scopes=("read",),
        )
        await store.accounts.put_key(key)
        policy = await add_policy(store, "p", tenant_id)
        for seed in (1, 2):
            await store.catalog.publish(export_of(policy, seed), now=NOW)
    async with gateway_over(registry_of(store)) as made:
        yield made


async def test_a_fresh_key_is_verified_while_another_tenant_compares_without_end(rig):
    target = "/mint/v1/policies/p/revisions/2/diff?against=1"
    flood = [asyncio.create_task(rig.ask("GET", target, f"tml-{TENANT}")) for _ in range(FLOOD)]
    try:
        done, waiting = await asyncio.wait(flood, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        answer = await asyncio.wait_for(rig.ask("GET", "/mint/v1/policies/p", f"tml-{OTHER}"), 10)
        assert answer.status == 200
        while len(waiting) > TENANT_DIFFS:
            done, waiting = await asyncio.wait(flood, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            flood = list(waiting)
            assert {(each.result().status, each.result().code) for each in done} == {(429, "overloaded")}
        assert len(waiting) == TENANT_DIFFS
    finally:
        for each in flood:
            each.cancel()
        await asyncio.gather(*flood, return_exceptions=True)


async def test_a_key_that_repeats_what_is_refused_at_once_holds_no_other_tenant_up(rig):
    """Time here is requests of the flood: between two iterations of the loop all that are due are begun."""
    target, answered = "/mint/v1/policies/p/revisions/2/diff?against=1", Counter[str]()

    async def repeat() -> None:
        while True:
            answered[(await rig.ask("GET", target, f"tml-{TENANT}")).code] += 1

    flood = [asyncio.create_task(repeat()) for _ in range(FLOOD)]
    try:
        while answered["overloaded"] < FLOOD:
            await asyncio.sleep(0.01)
        before = answered.total()
        answer = await asyncio.wait_for(rig.ask("GET", "/mint/v1/policies/p", f"tml-{OTHER}"), 60)
        assert answer.status == 200
        assert answered.total() - before < FLOOD, "less than one round of the flood's requests"
    finally:
        for each in flood:
            each.cancel()
        await asyncio.gather(*flood, return_exceptions=True)


async def test_comparisons_of_tenants_take_turns():
    begun, ends = list[str](), asyncio.Event()

    class Recorded(DiffHandler):
        async def _compare(self, policy, *_):
            begun.append(policy.tenant_id)
            await ends.wait()
            raise NotFound(kind="adapter", name="a")

    diffs = Recorded(catalog=None, evaluations=None, blobs=None)
    asked = [TENANT] * TENANT_DIFFS + [OTHER]
    revision = SimpleNamespace(digest="sha256:0", fault=None)
    tasks = [
        asyncio.create_task(diffs.diff(SimpleNamespace(tenant_id=each), revision, revision)) for each in asked
    ]
    await asyncio.sleep(0)
    ends.set()
    assert {type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)} == {NotFound}
    assert begun[:2] == [TENANT, OTHER]
    assert Counter(begun) == {TENANT: TENANT_DIFFS, OTHER: 1}
