"""``/mint/v1/engines`` and ``/mint/v1/adapters``: resident adapters per engine, as the loaders report them.

Invariants: a tenant sees and changes its own revisions only; another tenant's digest is not found. For
weights that several tenants have, each sees and changes only its own uses, pins and evictions; operators see
the totals.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query

from mint_common.catalog import OwnedRevision
from mint_common.client.directory import EngineDirectory
from mint_common.client.engine import EngineClient, ResidencyChange
from mint_common.errors import EngineRestarting, MintError, NotFound, Unavailable
from mint_common.generation import AdapterChange, AdapterStatus, EngineLoad
from mint_common.ids import Digest, EngineId, TenantId, is_digest
from services.gateway.core.mint.residency import (
    AdapterChangeEntry,
    AdapterEntry,
    EngineEntry,
    describe_changes,
    describe_engine,
    describe_residency,
    describe_restarting,
    describe_silent,
    load_of_tenant,
)
from services.gateway.http.edge.context import ReadCaller, TrainCaller
from services.gateway.http.edge.recording import RecordedRoute
from services.gateway.http.mint.context import CatalogDep, CatalogParts

router = APIRouter(prefix="/mint/v1", tags=["residency"], route_class=RecordedRoute)

NEAREST = 4096
"""Maximum adapters listed per engine: all in slots and host memory, then those on disk."""

ANSWER_SECONDS = 2.0
"""Time that a list of engines waits for each of them."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resident:
    client: EngineClient
    engine_id: EngineId
    adapters: Sequence[AdapterStatus]


@router.get("/engines")
async def list_engines(caller: ReadCaller, parts: CatalogDep) -> list[EngineEntry]:
    """List the engines and their load: by your tenant, or by all tenants for an operator.

    An engine that has just ended is `restarting` and expected back in `retry_after_seconds`. One that does
    not answer within 2 s is `silent`: its host may have vanished.
    """
    engines, tenant_id = parts.engines, None if caller.authority.may("operator") else caller.tenant_id
    asked = [_entry(engines, tenant_id, client) for client in engines.clients()]
    serving = [each for each in await asyncio.gather(*asked) if each is not None]
    known = {entry.engine_id for entry in serving}
    away = [(info, seconds) for info, seconds in engines.restarting() if info.engine_id not in known]
    return [*serving, *(describe_restarting(info, seconds) for info, seconds in away)]


@router.get("/adapters")
async def list_adapters(caller: ReadCaller, parts: CatalogDep) -> list[AdapterEntry]:
    """List the tenant's revisions on each engine: tier, size, pin, last use and place in the queue."""
    return await entries_of(parts, caller.tenant_id)


@router.get("/adapters/changes")
async def list_changes(
    caller: ReadCaller, parts: CatalogDep, policy: Annotated[str, Query(max_length=200)] = ""
) -> list[AdapterChangeEntry]:
    """List loads, evictions and failed loads of the tenant's revisions, the latest first.

    Each engine keeps the tenant's latest 100 since its start, with the reason of an eviction. ``policy``:
    those of one policy alone.
    """

    async def changed(client: EngineClient) -> tuple[EngineId, Sequence[AdapterChange]]:
        engine_id = (await client.describe()).engine_id
        return engine_id, await client.changes(tenant_id=caller.tenant_id)

    found = await _of_each(parts.engines, changed)
    digests = sorted({change.digest for _, changes in found for change in changes})
    owned = await parts.registry.find_owned(caller.tenant_id, digests) if digests else []
    return [entry for entry in describe_changes(found, owned) if policy in {"", entry.policy}]


@router.post("/adapters/{digest}/prewarm")
async def prewarm(digest: str, caller: TrainCaller, parts: CatalogDep) -> list[AdapterEntry]:
    """Load a revision on the engine that its requests go to, and answer when it is ready."""
    owned = (await _owned(parts, caller.tenant_id, digest))[0]
    client = await parts.engines.find(owned.base, digest=owned.revision.digest)
    await client.prewarm(owned.revision, tenant_id=caller.tenant_id)
    return await _of_digest(parts, caller.tenant_id, digest)


@router.post("/adapters/{digest}/{change}")
async def change(
    digest: str, change: ResidencyChange, caller: TrainCaller, parts: CatalogDep
) -> list[AdapterEntry]:
    """Pin, unpin or evict a revision on every engine where the tenant uses it. 412 if pinned or in use."""
    bases = {each.base for each in await _owned(parts, caller.tenant_id, digest)}
    holders = [
        resident.client
        for resident in await _residents(parts, caller.tenant_id)
        if any(status.digest == digest and status.tier != "stored" for status in resident.adapters)
    ]
    back_in = [seconds for info, seconds in parts.engines.restarting() if info.base in bases]
    if not holders and back_in:
        raise EngineRestarting(retry_after_seconds=min(back_in))
    if not holders:
        raise NotFound(kind="adapter on an engine", name=digest)
    for holder in holders:
        await holder.change(Digest(digest), change, tenant_id=caller.tenant_id)
    return await _of_digest(parts, caller.tenant_id, digest)


async def _owned(parts: CatalogParts, tenant_id: TenantId, digest: str) -> Sequence[OwnedRevision]:
    owned = await parts.registry.find_owned(tenant_id, [Digest(digest)]) if is_digest(digest) else ()
    if not owned:
        raise NotFound(kind="revision", name=digest)
    return owned


async def _of_digest(parts: CatalogParts, tenant_id: TenantId, digest: str) -> list[AdapterEntry]:
    return [entry for entry in await entries_of(parts, tenant_id) if entry.digest == digest]


async def entries_of(parts: CatalogParts, tenant_id: TenantId) -> list[AdapterEntry]:
    """Return a tenant's revisions on each engine."""
    residents = await _residents(parts, tenant_id)
    digests = {status.digest for resident in residents for status in resident.adapters}
    # The loaders know which tenants have used an adapter; only the registry knows who owns its revisions.
    owned = await parts.registry.find_owned(tenant_id, sorted(digests)) if digests else []
    return describe_residency([(each.engine_id, each.adapters) for each in residents], owned)


async def _residents(parts: CatalogParts, tenant_id: TenantId) -> list[_Resident]:
    async def resident(client: EngineClient) -> _Resident:
        engine_id = (await client.describe()).engine_id
        adapters = await client.adapters(tenant_id=tenant_id, limit=NEAREST)
        return _Resident(client=client, engine_id=engine_id, adapters=adapters)

    return await _of_each(parts.engines, resident)


async def _entry(
    engines: EngineDirectory, tenant_id: TenantId | None, client: EngineClient
) -> EngineEntry | None:
    """Return an engine's entry; None for one that has ended, or has never answered."""
    known = engines.known(client)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await _describe(tenant_id, client)
    except Unavailable as error:
        engines.note_failure(client, error)
        return None
    except TimeoutError:
        problem = f"no answer within {ANSWER_SECONDS:g} s"
        engines.note_failure(client, Unavailable(what="an engine", problem=problem))
        return describe_silent(known) if known else None


async def _describe(tenant_id: TenantId | None, client: EngineClient) -> EngineEntry:
    info = await client.describe()
    try:
        load: EngineLoad = await client.load()
        if tenant_id is not None:
            load = load_of_tenant(await client.adapters(tenant_id=tenant_id, limit=NEAREST), whole=load)
        return describe_engine(info, load)
    except MintError:
        return describe_engine(info, None)


async def _of_each(engines: EngineDirectory, ask: Callable[[EngineClient], Awaitable[T]]) -> list[T]:
    """Return each engine's answer; engines without one are omitted, and described again before their use."""

    async def answer(client: EngineClient) -> T | None:
        try:
            return await ask(client)
        except Unavailable as error:
            engines.note_failure(client, error)
            return None

    asked = await asyncio.gather(*map(answer, engines.clients()))
    return [each for each in asked if each is not None]
