"""``POST /mint/v1/gc``: remove stored bytes that no revision uses, for operators.

Invariant: nothing is removed unless all engines and trainers report what they hold.
"""

import asyncio

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from mint_common.catalog import CollectionReport
from mint_common.client.engine import EngineClient
from mint_common.ids import Digest
from services.gateway.http.edge.context import OperatorCaller
from services.gateway.http.edge.recording import RecordedRoute
from services.gateway.http.mint.context import CatalogDep, JobsDep
from services.gateway.http.tinker.context import TinkerDep

router = APIRouter(prefix="/mint/v1", tags=["operations"], route_class=RecordedRoute)


class CollectionBody(BaseModel):
    """``dry_run`` only lists the items. A collection stops after ``limit`` items and reports it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"dry_run": True, "limit": 200}]}
    )

    dry_run: StrictBool = True
    limit: StrictInt = Field(200, ge=1, le=1000)


@router.post("/gc")
async def collect(
    body: CollectionBody, _caller: OperatorCaller, parts: CatalogDep, jobs: JobsDep, tinker: TinkerDep
) -> CollectionReport:
    """Retire revisions outside their retention, and remove bytes of revisions retired long ago and bytes
    without a row.

    Never removed are the current and previous target of an alias, revisions that an engine holds, the newest
    revision of a policy, sampler checkpoints, the state that a training session resumes from, teachers of
    open jobs, and revisions that the sampler of a live client uses. Needs an operator's key. 503 while an
    engine or a trainer is down.
    """
    used = (
        await parts.trainers.digests() | await jobs.rollout.held() | await tinker.sampling_sessions.digests()
    )
    for base in await tinker.runs.all_bases():
        await parts.trainers.find(base)  # an engine that has ended cannot report what it holds
    for digests in await asyncio.gather(*(_held(client) for client in parts.engines.clients())):
        used |= digests
    return await parts.registry.collect(used=used, dry_run=body.dry_run, limit=body.limit)


async def _held(client: EngineClient) -> set[Digest]:
    """Return the revisions that an engine holds, loads or is bound to; not those only on its disk."""
    return {
        status.digest
        for status in await client.adapters()
        if status.tier != "stored" or status.pinned or status.state not in {"registered", "evicted", "failed"}
    }
