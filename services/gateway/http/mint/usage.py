"""``/mint/v1/usage``: a tenant's usage and limit of each quota, from the services that enforce them."""

import asyncio
from collections.abc import Sequence

import msgspec
from fastapi import APIRouter

from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import MintError
from mint_common.ids import TenantId
from mint_common.quotas import QuotaUse, quota_use
from services.gateway.adapters.tinker_postgres import TENANT_SESSIONS
from services.gateway.http.edge.context import ReadCaller
from services.gateway.http.edge.recording import RecordedRoute
from services.gateway.http.mint.context import CatalogDep, JobsDep, WebhooksDep
from services.gateway.http.mint.webhooks import TENANT_WEBHOOKS
from services.gateway.http.tinker.context import TinkerDep

router = APIRouter(prefix="/mint/v1", tags=["keys"], route_class=RecordedRoute)

TRAINER_SECONDS = 1.0
"""Time for which silent trainers are waited for."""


@router.get("/usage")
async def show_usage(
    caller: ReadCaller, parts: CatalogDep, jobs: JobsDep, tinker: TinkerDep, webhooks: WebhooksDep
) -> list[QuotaUse]:
    """List your tenant's usage and limit of each quota: a request beyond a limit is 422 `quota_exceeded`.

    ``client_seconds`` is missing while no trainer answers.
    """
    tenant_id = caller.tenant_id
    names = ("tenants", tenant_id, "usage")
    async with parts.limits.short.turn(tenant_id):
        sessions = await tinker.runs.count_sessions(tenant_id)
        hooks = await webhooks.store.count(tenant_id)
        (_, catalog), (_, work), of_clients = await asyncio.gather(
            parts.registry.forward("GET", names, caller),
            jobs.rollout.forward("GET", names, caller),
            _of_clients(parts.trainers, tenant_id),
        )
    return [
        *msgspec.json.decode(catalog, type=list[QuotaUse]),
        *msgspec.json.decode(work, type=list[QuotaUse]),
        *of_clients,
        quota_use("sessions", sessions, limit=TENANT_SESSIONS),
        quota_use("webhooks", hooks, limit=TENANT_WEBHOOKS),
    ]


async def _of_clients(trainers: TrainerDirectory, tenant_id: TenantId) -> Sequence[QuotaUse]:
    """Return the seconds that any trainer knows of all; none when no trainer answers in time."""
    try:
        async with asyncio.timeout(TRAINER_SECONDS):
            bases = trainers.known_bases() or await trainers.bases()
            return [await (await trainers.find(base)).usage(tenant_id) for base in bases[:1]]
    except (MintError, TimeoutError):
        return ()
