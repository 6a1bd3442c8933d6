"""Routes about a tenant's evaluation runs. A run of another tenant does not exist."""

import asyncio
from functools import partial
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query

from mint_common.catalog_requests import TextCursor
from mint_common.errors import InvalidField
from mint_common.events import EnvironmentSpec
from mint_common.job_requests import CompareBody, EvaluationRunBody
from mint_common.json_types import JsonObject
from mint_common.names import MAX_LIMIT
from mint_common.runtime.edge_routes import BodyRoute
from services.rollout.adapters.evaluation_runs_postgres import PostgresEvaluationRuns
from services.rollout.core.comparison import NO_ROWS, check_comparable, compare
from services.rollout.core.evaluation import EvaluationRun, RunState
from services.rollout.http.context import CallerDep, Cause, PartsDep, Tenant

MAX_ROWS = 4096


router = APIRouter(prefix="/internal/tenants/{tenant_id}/evaluations", route_class=BodyRoute)


@router.post("/run", status_code=202)
async def run_evaluation(
    body: EvaluationRunBody, caller: CallerDep, parts: PartsDep, cause: Cause
) -> JsonObject:
    """Begin the run of a revision."""
    return _view(await parts.evaluations.run(caller, body, cause=cause))


@router.post("/compare", status_code=202)
async def begin_comparison(body: CompareBody, caller: CallerDep, parts: PartsDep, cause: Cause) -> JsonObject:
    """Begin two runs that are asked the same."""
    run, baseline = await parts.evaluations.compare(caller, body, cause=cause)
    return {"run": _view(run), "baseline": _view(baseline), "comparison": None}


@router.get("/run")
async def list_runs(
    tenant_id: Tenant,
    parts: PartsDep,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
    after: Annotated[TextCursor, Query()] = None,
) -> list[JsonObject]:
    """List the tenant's newest runs; ``after`` is the last one of the previous page."""
    last = None if after is None else await parts.runs.run(tenant_id, after)
    found = await parts.runs.runs_of(tenant_id, limit=limit, after=last)
    return [_listed(run) for run in found]


@router.get("/run/{run_id}")
async def show_run(tenant_id: Tenant, run_id: str, parts: PartsDep) -> JsonObject:
    """Return a run."""
    return _view(await parts.runs.run(tenant_id, run_id))


@router.post("/run/{run_id}/cancel")
async def cancel_run(tenant_id: Tenant, run_id: str, parts: PartsDep) -> JsonObject:
    """Stop a run."""
    return _view(await parts.runs.cancel(tenant_id, run_id, now=parts.clock.now()))


@router.get("/run/{run_id}/rows")
async def list_rows(
    tenant_id: Tenant,
    run_id: str,
    parts: PartsDep,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
    after: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
) -> list[JsonObject]:
    """List the scored answers of a run."""
    run = await parts.runs.run(tenant_id, run_id)
    return await _rows(parts.runs, run, after=after, limit=limit)


@router.get("/compare")
async def compare_runs(
    tenant_id: Tenant,
    run: str,
    baseline: str,
    parts: PartsDep,
    rows: Annotated[int, Query(ge=0, le=100)] = 20,
) -> JsonObject:
    """Compare two runs."""
    mine, theirs = await parts.runs.run(tenant_id, run), await parts.runs.run(tenant_id, baseline)
    check_comparable(mine, theirs)
    sides = {"run": _view(mine), "baseline": _view(theirs)}
    if {mine.state, theirs.state} != {RunState.SUCCEEDED}:
        return {**sides, "comparison": None}
    compared = partial(compare, metric=mine.metric, seed=mine.seed, shown=rows)
    async with parts.comparing.turn(tenant_id):
        both = [await parts.runs.rows(each.run_id, after=0, limit=MAX_ROWS) for each in (mine, theirs)]
        found = await asyncio.to_thread(compared, *both)
    return {**sides, "comparison": msgspec.to_builtins(found)}


async def _rows(
    runs: PostgresEvaluationRuns, run: EvaluationRun, *, after: int, limit: int
) -> list[JsonObject]:
    found = await runs.rows(run.run_id, after=after, limit=limit)
    if run.state is RunState.SUCCEEDED and not found and not after:
        raise InvalidField(field="run_id", problem=NO_ROWS)
    return [msgspec.to_builtins(row) for row in found]


def _listed(run: EvaluationRun) -> JsonObject:
    """Return a run without what may be large: its grader, and the arguments of its environment."""
    shown = {name: value for name, value in _view(run).items() if name != "grader"}
    if run.environment is not None:
        shown["env"] = _environment(run.environment) | {"args": None}
    return shown


def _view(run: EvaluationRun) -> JsonObject:
    hidden = {"tenant_id", "caller", "progress_at", "revision", "data", "environment"}
    shown = {name: value for name, value in msgspec.to_builtins(run).items() if name not in hidden}
    revision, data = run.revision, run.data
    return {
        **shown,
        "revision": None if revision is None else {"number": revision.number, "digest": revision.digest},
        "file": None if data is None else {"file_id": data.file.file_id, "filename": data.file.filename},
        "grader": None if data is None else data.grader,
        "env": None if run.environment is None else _environment(run.environment),
    }


def _environment(spec: EnvironmentSpec) -> JsonObject:
    shown = msgspec.to_builtins(spec)
    return {name: value for name, value in shown.items() if name not in ("min_group", "evaluation")}
