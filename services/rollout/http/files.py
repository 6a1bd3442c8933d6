"""The route by which rollout hears that a tenant's file is gone."""

from fastapi import APIRouter

from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from services.rollout.ports import Erasures


def file_routes(erasures: Erasures, clock: Clock) -> APIRouter:
    """Return the route under /internal/tenants/{tenant}/files."""
    router = APIRouter(prefix="/internal/tenants/{tenant_id}/files")

    @router.delete("/{file_id}", status_code=204)
    async def delete_file(tenant_id: str, file_id: str) -> None:
        """Answer when it is sure that what was made of the file's rows will be erased."""
        await erasures.delete_file(TenantId(tenant_id), file_id, now=clock.now())

    return router
