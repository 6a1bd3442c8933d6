"""``/v1/fine_tuning/alpha/graders``: try graders before a job."""

from fastapi import APIRouter, Request, Response

from mint_common.job_requests import GraderRunBody, ValidateBody
from mint_common.json_types import JsonObject
from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.gateway.http.edge.routes import OpenAIRoute
from services.gateway.http.mint.forwarding import TrainFineTuning

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["fine-tuning"], route_class=OpenAIRoute)


@router.post("/run", response_model=JsonObject)
async def run(request: Request, _body: GraderRunBody, graders: TrainFineTuning) -> Response:
    """Grade one answer. A fault is listed in `metadata.errors`, with a reward of 0."""
    async with cancelled_on_disconnect(request):
        return await graders.forward(is_long=True)


@router.post("/validate", response_model=JsonObject)
async def validate(request: Request, _body: ValidateBody, graders: TrainFineTuning) -> Response:
    """Return a valid grader unchanged; an invalid one gets 400 that names its field.

    Source is run without an answer. A model must be a base, or a revision as `policy@N`.
    """
    async with cancelled_on_disconnect(request):
        return await graders.forward(is_long=True)
