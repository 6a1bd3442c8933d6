"""``/mint/v1/trainers``: which trainer holds which policy, as the trainers' pools report it.

Invariant: a tenant sees its own policies only; operators see how many there are of all.
"""

import asyncio

from fastapi import APIRouter

from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import MintError
from mint_common.ids import BaseName, TenantId
from mint_common.training import PoolTrainer
from services.gateway.core.mint.trainers import TrainerEntry, describe_trainer
from services.gateway.http.edge.context import ReadCaller
from services.gateway.http.edge.recording import RecordedRoute
from services.gateway.http.mint.context import CatalogDep

router = APIRouter(prefix="/mint/v1", tags=["residency"], route_class=RecordedRoute)

_BASES_SECONDS = 1.0
"""Time for which a silent trainer is waited for."""


@router.get("/trainers")
async def list_trainers(caller: ReadCaller, parts: CatalogDep) -> list[TrainerEntry]:
    """List the trainers of each base and your policies that are at work on them.

    An operator's key counts the policies of all tenants. A policy stays with its trainer while it has work.
    """
    bases, of_all = await _bases(parts.trainers), caller.authority.may("operator")
    found = await asyncio.gather(*(_pool_of(parts.trainers, base, caller.tenant_id) for base in bases))
    return [describe_trainer(trainer, of_all=of_all) for pool in found for trainer in pool]


async def _bases(trainers: TrainerDirectory) -> list[BaseName]:
    try:
        async with asyncio.timeout(_BASES_SECONDS):
            return await trainers.bases()
    except TimeoutError:
        return trainers.known_bases()


async def _pool_of(trainers: TrainerDirectory, base: BaseName, tenant_id: TenantId) -> list[PoolTrainer]:
    """Return the trainers of a base; none when they do not answer."""
    try:
        async with asyncio.timeout(_BASES_SECONDS):
            return await (await trainers.find(base)).pool(tenant_id)
    except (MintError, TimeoutError):
        return []
