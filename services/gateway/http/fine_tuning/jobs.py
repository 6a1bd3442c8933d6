"""``/v1/fine_tuning/jobs``: jobs on files, as OpenAI's API has them; rollout owns them."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from mint_common.fine_tuning_requests import FineTuningBody
from mint_common.json_types import JsonObject
from services.gateway.http.edge.recording import CauseDep, creates
from services.gateway.http.fine_tuning.routes import FineTuningRoute
from services.gateway.http.mint.forwarding import ReadFineTuning, TrainFineTuning

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=FineTuningRoute)

Limit = Annotated[int, Query(alias="limit", ge=1, le=10_000)]
After = Annotated[str | None, Query(alias="after", max_length=200, pattern=r"^[^\x00]*$")]
JobPath = Annotated[str, Path(alias="fine_tuning_job")]


@router.post("", response_model=JsonObject, dependencies=[creates("id")])
async def create_job(_body: FineTuningBody, jobs: TrainFineTuning, cause: CauseDep) -> Response:
    """Train a policy on a file: `supervised`, `dpo`, `reinforcement`, or `mint: {"method": "kto"}`.

    `model` is a base, over which a new policy `<base>-<suffix>` is made, or a policy, which is trained on
    from its newest revision. The answer has the numbers that "auto" stands for. `mint` has what OpenAI's API
    has no word for. With `mint.promote` an alias is pointed at the result: 403 for a protected one unless the
    key has `admin`.
    """
    return await jobs.forward(is_long=True, cause=cause)


@router.get("", response_model=JsonObject)
async def list_jobs(jobs: ReadFineTuning, _limit: Limit = 20, _after: After = None) -> Response:
    """List the tenant's jobs on files, newest first; ``after`` is the last id of the previous page.

    `metadata[name]=value` selects, `metadata=null` selects jobs without any. A page has 100 jobs at most:
    `has_more` says whether there are others.
    """
    return await jobs.forward()


@router.get("/{fine_tuning_job}", response_model=JsonObject)
async def get_job(_job: JobPath, jobs: ReadFineTuning) -> Response:
    """Return a job. `fine_tuned_model` is the permanent name of its chosen revision."""
    return await jobs.forward()


@router.post("/{fine_tuning_job}/cancel", response_model=JsonObject)
async def cancel_job(_job: JobPath, jobs: TrainFineTuning) -> Response:
    """Cancel a job after its current work. Its revisions stay."""
    return await jobs.forward()


@router.post("/{fine_tuning_job}/pause", response_model=JsonObject)
async def pause_job(_job: JobPath, jobs: TrainFineTuning) -> Response:
    """Pause a job after its current step. The revisions of its steps can be used."""
    return await jobs.forward()


@router.post("/{fine_tuning_job}/resume", response_model=JsonObject)
async def resume_job(_job: JobPath, jobs: TrainFineTuning) -> Response:
    """Resume a paused job where it stopped, with its optimizer's state."""
    return await jobs.forward(is_long=True)


@router.get("/{fine_tuning_job}/events", response_model=JsonObject)
async def list_events(
    _job: JobPath, jobs: ReadFineTuning, _limit: Limit = 20, _after: After = None
) -> Response:
    """List what happened to a job, newest first. An event's id stays the same."""
    return await jobs.forward()


@router.get("/{fine_tuning_job}/checkpoints", response_model=JsonObject)
async def list_checkpoints(
    _job: JobPath, jobs: ReadFineTuning, _limit: Limit = 10, _after: After = None
) -> Response:
    """List the revisions of a job that were evaluated, and its last one, newest first."""
    return await jobs.forward()
