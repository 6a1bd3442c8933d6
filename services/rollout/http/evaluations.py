"""Routes about a tenant's evaluation runs. A run of another tenant does not exist."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from mint_common.authority import Caller
from mint_common.claims import RevisionRef
from mint_common.ids import BaseName, PolicyId, TenantId
from mint_common.runtime.clock import Clock
from services.rollout.core.evaluation import EvaluationRun
from services.rollout.ports import EvaluationRuns

MAX_LISTED = 1000


class RunBody(BaseModel):
    """A run that the gateway has checked; its id names it however often it is sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    base: str
    policy_id: str
    policy: str
    revision: RevisionRef
    task: str
    n: int
    seed: int
    temperature: float
    max_new_tokens: int
    caller: Caller


def evaluation_routes(runs: EvaluationRuns, clock: Clock) -> APIRouter:
    """Return the routes under /internal/tenants/{tenant}/evaluations."""
    router = APIRouter(prefix="/internal/tenants/{tenant_id}/evaluations")

    @router.post("")
    async def add_run(tenant_id: str, body: RunBody) -> dict[str, object]:
        asked = dict(body)
        asked |= {"base": BaseName(body.base), "policy_id": PolicyId(body.policy_id)}
        run = EvaluationRun(tenant_id=TenantId(tenant_id), created_at=clock.now(), **asked)
        return _view(await runs.add(run))

    @router.get("")
    async def list_runs(
        tenant_id: str, limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100
    ) -> list[dict[str, object]]:
        return [_view(run) for run in await runs.runs_of(TenantId(tenant_id), limit=limit)]

    @router.get("/{run_id}")
    async def show_run(tenant_id: str, run_id: str) -> dict[str, object]:
        return _view(await runs.run(TenantId(tenant_id), run_id))

    @router.post("/{run_id}/cancel")
    async def cancel_run(tenant_id: str, run_id: str) -> dict[str, object]:
        return _view(await runs.cancel(TenantId(tenant_id), run_id, now=clock.now()))

    return router


def _view(run: EvaluationRun) -> dict[str, object]:
    hidden = {"tenant_id", "caller", "progress_at", "revision"}
    shown = {name: value for name, value in msgspec.to_builtins(run).items() if name not in hidden}
    return {**shown, "revision": {"number": run.revision.number, "digest": run.revision.digest}}
