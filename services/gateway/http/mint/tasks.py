"""``/mint/v1/tasks``: tasks to train policies on, and to evaluate them from outside."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from mint_common.job_requests import PromptsBody, ScoreBody
from mint_common.json_types import JsonObject
from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.gateway.http.edge.routes import GatewayRoute
from services.gateway.http.mint.forwarding import ReadTasks, TrainTasks


class TaskRoute(GatewayRoute):
    """A route whose body may have many completions."""

    max_body_bytes = 4 << 20


router = APIRouter(prefix="/mint/v1/tasks", tags=["tasks"], route_class=TaskRoute)

TaskPath = Annotated[str, Path(alias="task")]


@router.get("", response_model=object)
async def list_tasks(tasks: ReadTasks) -> Response:
    """List the installed tasks."""
    return await tasks.forward()


@router.get("/{task}", response_model=JsonObject)
async def get_task(_task: TaskPath, tasks: ReadTasks) -> Response:
    """Return one task with the hyper-parameters that it recommends."""
    return await tasks.forward()


@router.post("/{task}/prompts", response_model=object)
async def draw_prompts(_task: TaskPath, _body: PromptsBody, tasks: TrainTasks, request: Request) -> Response:
    """Draw prompts with their reference answers."""
    async with cancelled_on_disconnect(request):
        return await tasks.forward(is_long=True)


@router.post("/{task}/score", response_model=object)
async def score(_task: TaskPath, _body: ScoreBody, tasks: TrainTasks, request: Request) -> Response:
    """Score completions as training would."""
    async with cancelled_on_disconnect(request):
        return await tasks.forward(is_long=True)
