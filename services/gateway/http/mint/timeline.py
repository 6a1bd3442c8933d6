"""Timelines of a tenant and of a policy: entries of the registry and of rollout, merged."""

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query

from mint_common.authority import Caller
from mint_common.timeline import TimelineEntry, TimelineQuery, merge_timelines
from services.gateway.http.edge.context import ReadCaller
from services.gateway.http.edge.recording import RecordedRoute
from services.gateway.http.mint.context import CatalogDep, CatalogParts, JobParts, JobsDep
from services.gateway.http.mint.forwarding import PolicyPath

router = APIRouter(prefix="/mint/v1", tags=["policies"], route_class=RecordedRoute)


@router.get("/timeline")
async def list_tenant_timeline(
    page: Annotated[TimelineQuery, Query()], caller: ReadCaller, parts: CatalogDep, jobs: JobsDep
) -> list[TimelineEntry]:
    """List what happened to all your policies, newest first: moves of aliases, exports, scores and jobs.

    ``before`` is the ``place`` of the last entry of the previous page. Removed policies keep their entries.
    """
    async with parts.limits.short.turn(caller.tenant_id):
        return await _merged(("tenants", caller.tenant_id, "timeline"), page, caller, parts, jobs)


@router.get("/policies/{policy}/timeline")
async def list_timeline(
    policy: PolicyPath,
    page: Annotated[TimelineQuery, Query()],
    caller: ReadCaller,
    parts: CatalogDep,
    jobs: JobsDep,
) -> list[TimelineEntry]:
    """List what happened to a policy, newest first: moves of its aliases, exports, scores and jobs.

    ``before`` is the ``place`` of the last entry of the previous page.
    """
    async with parts.limits.short.turn(caller.tenant_id):
        found = await parts.registry.get_policy(caller.tenant_id, policy)
        names = ("tenants", caller.tenant_id, "policies", found.policy_id, "timeline")
        return await _merged(names, page, caller, parts, jobs)


async def _merged(
    names: tuple[str, ...], page: TimelineQuery, caller: Caller, parts: CatalogParts, jobs: JobParts
) -> list[TimelineEntry]:
    """Return a page of what the registry and rollout answer for a resource."""
    query = [(name, str(value)) for name, value in page.model_dump(exclude_none=True).items()]
    answers = await asyncio.gather(
        parts.registry.forward("GET", names, caller, query=query),
        jobs.rollout.forward("GET", names, caller, query=query),
    )
    pages = [msgspec.json.decode(content, type=list[TimelineEntry]) for _, content in answers]
    return merge_timelines(pages, limit=page.limit)
