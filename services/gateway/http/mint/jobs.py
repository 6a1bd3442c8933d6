"""``/mint/v1/jobs``: managed training jobs, on tasks and on files; rollout owns them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from mint_common.authority import Caller
from mint_common.catalog_requests import TextCursor
from mint_common.fine_tuning_requests import JOB_KINDS, JobBody
from mint_common.json_types import JsonObject
from mint_common.runtime.edge_routes import Handler
from services.gateway.http.edge.recording import CauseDep, RecordedRoute, creates
from services.gateway.http.mint.forwarding import ReadJobs, TrainJobs


class JobsRoute(RecordedRoute):
    """A route of jobs: errors in a body name the path without the body's kind."""

    async def serve(self, request: Request, caller: Caller, carry_out: Handler) -> Response:
        """Answer a request."""
        try:
            return await super().serve(request, caller, carry_out)
        except RequestValidationError as error:
            raise RequestValidationError([_without_kind(each) for each in error.errors()]) from error


def _without_kind(problem: dict[str, Any]) -> dict[str, Any]:  # pydantic's own
    where, *path = problem["loc"]
    return {**problem, "loc": (where, *(path[1:] if path and path[0] in JOB_KINDS else path))}


router = APIRouter(prefix="/mint/v1/jobs", tags=["jobs"], route_class=JobsRoute)

JobStateName = Literal["submitted", "running", "paused", "succeeded", "failed", "cancelled"]
Limit = Annotated[int, Query(alias="limit", ge=1, le=1000)]
JobPath = Annotated[str, Path(alias="job")]


@router.post("", status_code=202, response_model=JsonObject, dependencies=[creates("job_id")])
async def submit_job(
    _body: Annotated[JobBody, Body(title="Body")], jobs: TrainJobs, cause: CauseDep
) -> Response:
    """Submit a job on a task, in an environment, or on a file with the body of `POST /v1/fine_tuning/jobs`.

    The same Idempotency-Key and body is the same job, however often it is sent.
    """
    return await jobs.forward(is_long=True, cause=cause)


@router.get("", response_model=list[JsonObject])
async def list_jobs(
    jobs: ReadJobs,
    _limit: Limit = 100,
    _state: Annotated[JobStateName | None, Query(alias="state")] = None,
    _policy: Annotated[TextCursor, Query(alias="policy")] = None,
    _after: Annotated[TextCursor, Query(alias="after")] = None,
) -> Response:
    """List the tenant's newest jobs, newest first, without their steps and graders.

    ``state`` and ``policy`` (its name or id) are filters; ``after`` is the last job of the previous page.
    """
    return await jobs.forward()


@router.get("/{job}", response_model=JsonObject)
async def get_job(
    _job: JobPath, jobs: ReadJobs, after_step: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0
) -> Response:
    """Return a job with its steps after ``after_step``, by default all.

    It is ``submitted`` while earlier jobs of its policy run.
    """
    return await jobs.forward(query=[("after_step", str(after_step))])


@router.get("/{job}/rollouts", response_model=JsonObject)
async def get_rollouts(
    _job: JobPath,
    jobs: ReadJobs,
    _step: Annotated[int | None, Query(alias="step", ge=1)] = None,
    _wave: Annotated[str | None, Query(alias="wave", max_length=128)] = None,
    _group: Annotated[int, Query(alias="group", ge=0)] = 0,
    _episode: Annotated[int | None, Query(alias="episode", ge=0)] = None,
    *,
    _token_texts: Annotated[bool, Query(alias="token_texts")] = False,
) -> Response:
    """Return what a step was trained on, by default the newest: the episodes of a group, or one of them.

    ``wave`` names the step by its wave, which is a revision's ``wave_id``.

    Each has its reward, scores, outcome and segments: sampled texts with their ``logprobs``, and the context
    between. ``trainer_logprobs`` are those of the pass that first trained on the text, at the same
    temperature, once its step is exported: their difference is the log-ratio of a token. With
    ``token_texts`` a sampled text has the text of each of its tokens, while an engine of the base answers.
    """
    return await jobs.forward(is_long=True)


@router.post("/{job}/cancel", response_model=JsonObject)
async def cancel_job(_job: JobPath, jobs: TrainJobs) -> Response:
    """Cancel a job after its current work; the answer omits its steps. An ended job stays unchanged."""
    return await jobs.forward()


@router.post("/{job}/pause", response_model=JsonObject)
async def pause_job(_job: JobPath, jobs: TrainJobs) -> Response:
    """Pause a job after its current step; the answer omits its steps."""
    return await jobs.forward()


@router.post("/{job}/resume", response_model=JsonObject)
async def resume_job(_job: JobPath, jobs: TrainJobs) -> Response:
    """Resume a paused job where it stopped; the answer omits its steps."""
    return await jobs.forward(is_long=True)
