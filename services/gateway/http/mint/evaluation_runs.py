"""``/mint/v1/evaluations``: score revisions on a task's held-out prompts or on a file's rows; compare two.

Rollout samples and scores; the registry gets the mean as an evaluation, whose suite is the task or the file
and whose author is the requesting key. The score of a bare base stays in its run.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from mint_common.catalog_requests import Label, TextCursor
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
    """Score a revision. The answer is the run; `GET` it until it has a ``value`` and ``stderr``."""
    return await runs.forward(is_long=True, cause=cause)


@router.post("/compare", status_code=202, response_model=JsonObject, dependencies=[creates("run", "run_id")])
async def begin_comparison(_body: CompareBody, runs: TrainJobs, cause: CauseDep) -> Response:
    """Score two models on the same prompts with the same seeds; `GET` both runs for the comparison."""
    return await runs.forward(is_long=True, cause=cause)


@router.get("/compare", response_model=JsonObject)
async def get_comparison(
    _run: RunQuery, _baseline: BaselineQuery, runs: TrainJobs, _rows: RowsQuery = 20
) -> Response:
    """Compare two runs of the same prompts; ``comparison`` is null until both have succeeded.

    It shows the ``rows`` rows that differ most. A run whose rows are no longer stored is refused.
    """
    return await runs.forward(is_long=True)


@router.get("/run", response_model=list[JsonObject])
async def list_runs(
    runs: ReadJobs,
    _limit: Limit = 100,
    _after: Annotated[TextCursor, Query(alias="after")] = None,
) -> Response:
    """List the tenant's newest runs, newest first, without their graders.

    ``after`` is the last run of the previous page.
    """
    return await runs.forward()


@router.get("/run/{run}", response_model=JsonObject)
async def get_run(_run: RunPath, runs: ReadJobs) -> Response:
    """Return a run: ``scored`` of ``n`` prompts, and ``value`` and ``stderr`` at the end."""
    return await runs.forward()


@router.get("/run/{run}/rows", response_model=list[JsonObject])
async def list_rows(_run: RunPath, runs: TrainJobs, _limit: Limit = 100, _after: AfterRow = 0) -> Response:
    """List the answers of an ended run with their scores, after row ``after``.

    The newest 64 runs of a tenant have them.
    """
    return await runs.forward()


@router.post("/run/{run}/cancel", response_model=JsonObject)
async def cancel_run(_run: RunPath, runs: TrainJobs) -> Response:
    """Cancel a run. An ended run stays unchanged, and so does a score that is being recorded."""
    return await runs.forward()
