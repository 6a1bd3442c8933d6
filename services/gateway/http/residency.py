"""``/mint/v1/engines`` and ``/mint/v1/adapters``: what is resident where, as the loaders say it."""

import asyncio
from collections import defaultdict

from fastapi import APIRouter

from mint_common.catalog import PolicyRecord
from mint_common.client.engine import EngineClient
from mint_common.errors import Unavailable
from mint_common.generation import AdapterStatus, EngineInfo
from mint_common.ids import Digest, TenantId
from services.gateway.core.json_types import JsonObject
from services.gateway.core.residency import OwnedRevision, describe_residency
from services.gateway.http.context import CallerDep, Gateway, GatewayDep

router = APIRouter(prefix="/mint/v1", tags=["residency"])

PAGE = 1000
CONCURRENT = 8


@router.get("/engines")
async def list_engines(gateway: GatewayDep) -> list[EngineInfo]:
    """List the engines that answer now."""
    asked = await asyncio.gather(*(_describe(client) for client in gateway.engines.clients()))
    return [info for info in asked if info is not None]


@router.get("/adapters")
async def list_adapters(caller: CallerDep, gateway: GatewayDep) -> list[JsonObject]:
    """List where the tenant's revisions are: per engine the tier, readiness, size, pin and last use."""
    asked = await asyncio.gather(*(_adapters(client) for client in gateway.engines.clients()))
    resident = [entry for entry in asked if entry is not None and entry[1]]
    owned = await _owned(gateway, caller.tenant_id) if resident else {}
    return describe_residency(resident, owned)


async def _describe(client: EngineClient) -> EngineInfo | None:
    try:
        return await client.describe()
    except Unavailable:
        return None


async def _adapters(client: EngineClient) -> tuple[str, list[AdapterStatus]] | None:
    try:
        return (await client.describe()).engine_id, await client.adapters()
    except Unavailable:
        return None


async def _owned(gateway: Gateway, tenant_id: TenantId) -> dict[Digest, list[OwnedRevision]]:
    """Return the tenant's revisions by digest: the loaders know adapters, only the registry knows whose."""
    owned: dict[Digest, list[OwnedRevision]] = defaultdict(list)
    gate = asyncio.Semaphore(CONCURRENT)

    async def read(policy: PolicyRecord) -> None:
        async with gate:
            after = 0
            while True:
                page = await gateway.registry.list_revisions(
                    tenant_id, policy.policy_id, limit=PAGE, after=after
                )
                for revision in page:
                    owned[revision.digest].append(OwnedRevision(policy=policy.name, number=revision.number))
                if len(page) < PAGE:
                    return
                after = page[-1].number

    last: str | None = None
    while True:
        policies = await gateway.registry.list_policies(tenant_id, limit=PAGE, after=last)
        await asyncio.gather(*(read(policy) for policy in policies if policy.latest is not None))
        if len(policies) < PAGE:
            return owned
        last = policies[-1].name
