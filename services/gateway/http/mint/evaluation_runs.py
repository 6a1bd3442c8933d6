"""``/mint/v1/evaluations``: score revisions on a task's held-out prompts or on a file's rows; compare two.

Rollout samples and scores; the registry gets the mean as an evaluation of the suite that is the task or the
file, signed by the key that asked. A bare base's score stays in its run.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from mint_common.catalog_requests import Label
from mint_common.job_requests import CompareBody, EvaluationRunBody
from mint_common.json_types import JsonObject
from services.gateway.http.edge.recording import CauseDep, RecordedRoute, creates
from services.gateway.http.mint.forwarding import ReadJobs, TrainJobs

router = APIRouter(prefix="/mint/v1/evaluations", tags=["evaluations"], route_class=RecordedRoute)

Limit = Annotated[int, Query(alias="limit", ge=1, le=1000)]
AfterRow = Annotated[int, Query(alias="after", ge=0, lt=1 << 31)]
RunQuery = Annotated[Label, Query(alias="run")]
BaselineQuery = Annotated[Label, Query(alias="baseline")]
RowsQuery = Annotated[int, Query(alias="rows", ge=0, le=100)]
RunPath = Annotated[str, Path(alias="run")]


@router.post("/run", status_code=202, response_model=JsonObject, dependencies=[creates("run_id")])
async def run_evaluation(_body: EvaluationRunBody, runs: TrainJobs, cause: CauseDep) -> Response:
    """Score a revision; the answer is the run, which `GET` follows to its ``value`` and ``stderr``."""
    return await runs.forward(is_long=True, cause=cause)


@router.post("/compare", status_code=202, response_model=JsonObject, dependencies=[creates("run", "run_id")])
async def begin_comparison(_body: CompareBody, runs: TrainJobs, cause: CauseDep) -> Response:
    """Score two models on the same prompts with the same seeds; `GET` follows both runs to the comparison."""
    return await runs.forward(is_long=True, cause=cause)


@router.get("/compare", response_model=JsonObject)
async def get_comparison(
    _run: RunQuery, _baseline: BaselineQuery, runs: TrainJobs, _rows: RowsQuery = 20
) -> Response:
    """Compare two runs that were asked the same: ``comparison`` is null until both have succeeded.

    ``rows`` of it are shown, those that differ most. A run whose rows are no longer kept is refused.
    """
    return await runs.forward(is_long=True)


@router.get("/run", response_model=list[JsonObject])
async def list_runs(runs: ReadJobs, _limit: Limit = 100) -> Response:
    """List the tenant's newest runs, newest first, without their graders."""
    return await runs.forward()


@router.get("/run/{run}", response_model=JsonObject)
async def get_run(_run: RunPath, runs: ReadJobs) -> Response:
    """Return a run: ``scored`` of ``n`` prompts, and at its end ``value`` and ``stderr``."""
    return await runs.forward()


@router.get("/run/{run}/rows", response_model=list[JsonObject])
async def list_rows(_run: RunPath, runs: TrainJobs, _limit: Limit = 100, _after: AfterRow = 0) -> Response:
    """List the answers of a run that has ended, each with its score, behind row ``after``.

    The newest 64 runs of a tenant keep them.
    """
    return await runs.forward()


@router.post("/run/{run}/cancel", response_model=JsonObject)
async def cancel_run(_run: RunPath, runs: TrainJobs) -> Response:
    """Stop a run. One that has ended stays as it is; a score that is recorded at this moment stays too."""
    return await runs.forward()
