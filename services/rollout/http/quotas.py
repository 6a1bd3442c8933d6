"""What a tenant may have."""

from fastapi import APIRouter

from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from services.rollout.core.quotas import DAY_SECONDS, JobQuotas
from services.rollout.ports import Connection, JobStore


def quota_routes(jobs: JobStore[Connection], quotas: JobQuotas, clock: Clock) -> APIRouter:
    """Return the routes under /internal/tenants/{tenant}/quotas."""
    router = APIRouter(prefix="/internal/tenants/{tenant_id}/quotas")

    @router.get("/jobs")
    async def check_jobs(tenant_id: str) -> dict[str, float]:
        usage = await jobs.usage(TenantId(tenant_id), since=clock.now() - DAY_SECONDS)
        quotas.check(usage)
        return {"open_jobs": usage.open_jobs, "trainer_seconds": usage.trainer_seconds}

    return router
