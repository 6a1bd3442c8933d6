"""Routes about a tenant's evaluation runs. A run of another tenant does not exist."""

import asyncio
from functools import partial
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from mint_common.authority import Caller
from mint_common.claims import RevisionRef
from mint_common.errors import InvalidField
from mint_common.ids import BaseName, PolicyId, TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import FairGate
from services.rollout.core.comparison import NO_ROWS, check_comparable, compare
from services.rollout.core.evaluation import EvaluationData, EvaluationRun, RunState
from services.rollout.ports import EvaluationRuns

MAX_LISTED = 1000
MAX_ROWS = 4096
TENANT_RUNS = 16
"""Evaluation runs that a tenant may have open; those of its jobs are not counted."""
COMPARED_AT_ONCE = 2
"""Comparisons that are computed at a time, one of a tenant: each holds the rows of two runs."""


class RunBody(BaseModel):
    """A run that the gateway has checked; its id names it however often it is sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    base: BaseName
    policy_id: PolicyId | None
    policy: str
    revision: RevisionRef | None
    task: str
    suite: str
    metric: str
    data: EvaluationData | None
    n: int
    seed: int
    temperature: float
    max_new_tokens: int
    caller: Caller


class ComparisonBody(BaseModel):
    """Two runs that begin together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: RunBody
    baseline: RunBody


def evaluation_routes(runs: EvaluationRuns, clock: Clock) -> APIRouter:
    """Return the routes under /internal/tenants/{tenant}/evaluations."""
    router = APIRouter(prefix="/internal/tenants/{tenant_id}/evaluations")
    comparing = FairGate(COMPARED_AT_ONCE, limit=1)

    async def add(tenant_id: str, *bodies: RunBody) -> list[EvaluationRun]:
        now = clock.now()
        asked = [
            EvaluationRun(tenant_id=TenantId(tenant_id), created_at=now, **dict(body)) for body in bodies
        ]
        return await runs.add(asked, most_open=TENANT_RUNS)

    @router.post("")
    async def add_run(tenant_id: str, body: RunBody) -> dict[str, object]:
        (run,) = await add(tenant_id, body)
        return _view(run)

    @router.post("/comparison")
    async def add_comparison(tenant_id: str, body: ComparisonBody) -> dict[str, object]:
        run, baseline = await add(tenant_id, body.run, body.baseline)
        return {"run": _view(run), "baseline": _view(baseline), "comparison": None}

    @router.get("")
    async def list_runs(
        tenant_id: str, limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100
    ) -> list[dict[str, object]]:
        found = await runs.runs_of(TenantId(tenant_id), limit=limit)
        return [{name: value for name, value in _view(run).items() if name != "grader"} for run in found]

    @router.get("/{run_id}")
    async def show_run(tenant_id: str, run_id: str) -> dict[str, object]:
        return _view(await runs.run(TenantId(tenant_id), run_id))

    @router.post("/{run_id}/cancel")
    async def cancel_run(tenant_id: str, run_id: str) -> dict[str, object]:
        return _view(await runs.cancel(TenantId(tenant_id), run_id, now=clock.now()))

    @router.get("/{run_id}/rows")
    async def list_rows(
        tenant_id: str,
        run_id: str,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
        after: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
    ) -> list[dict[str, object]]:
        run = await runs.run(TenantId(tenant_id), run_id)
        return await _rows(runs, run, after=after, limit=limit)

    @router.get("/{run_id}/comparison")
    async def compare_runs(
        tenant_id: str, run_id: str, baseline: str, rows: Annotated[int, Query(ge=0, le=100)]
    ) -> dict[str, object]:
        tenant = TenantId(tenant_id)
        run, other = await runs.run(tenant, run_id), await runs.run(tenant, baseline)
        check_comparable(run, other)
        sides = {"run": _view(run), "baseline": _view(other)}
        if {run.state, other.state} != {RunState.SUCCEEDED}:
            return {**sides, "comparison": None}
        compared = partial(compare, metric=run.metric, seed=run.seed, shown=rows)
        async with comparing.turn(tenant):
            mine, theirs = [await runs.rows(each.run_id, after=0, limit=MAX_ROWS) for each in (run, other)]
            found = await asyncio.to_thread(compared, mine, theirs)
        return {**sides, "comparison": msgspec.to_builtins(found)}

    return router


async def _rows(
    runs: EvaluationRuns, run: EvaluationRun, *, after: int, limit: int
) -> list[dict[str, object]]:
    found = await runs.rows(run.run_id, after=after, limit=limit)
    if run.state is RunState.SUCCEEDED and not found and not after:
        raise InvalidField(field="run_id", problem=NO_ROWS)
    return [msgspec.to_builtins(row) for row in found]


def _view(run: EvaluationRun) -> dict[str, object]:
    hidden = {"tenant_id", "caller", "progress_at", "revision", "data"}
    shown = {name: value for name, value in msgspec.to_builtins(run).items() if name not in hidden}
    revision, data = run.revision, run.data
    return {
        **shown,
        "revision": None if revision is None else {"number": revision.number, "digest": revision.digest},
        "file": None if data is None else {"file_id": data.file.file_id, "filename": data.file.filename},
        "grader": None if data is None else data.grader,
    }
