"""Routes about tasks: installed tasks, prompts to evaluate on, and scores."""

from dataclasses import asdict

from fastapi import APIRouter, Request

from mint_common.bounds import check_between
from mint_common.errors import InvalidField
from mint_common.job_requests import PromptsBody, ScoreBody
from mint_common.json_types import JsonObject
from mint_common.lora import MAX_SEED
from mint_common.runtime.disconnect import cancelled_on_disconnect
from mint_common.runtime.edge_routes import BodyRoute
from services.rollout.core.task import TaskInfo
from services.rollout.handlers.lengths import CALLERS
from services.rollout.ports import Tasks

MAX_ITEMS = 1024


def task_routes(tasks: Tasks) -> APIRouter:
    """Return the routes under /internal/tasks."""
    router = APIRouter(prefix="/internal/tasks", route_class=BodyRoute)

    @router.get("")
    async def list_tasks() -> list[JsonObject]:
        return [_view(info) for info in await tasks.describe_all()]

    @router.get("/{name}")
    async def show_task(name: str) -> JsonObject:
        return _view(await tasks.describe(name))

    @router.post("/{name}/prompts")
    async def draw_prompts(name: str, body: PromptsBody, request: Request) -> JsonObject:
        check_between("n", body.n, 1, MAX_ITEMS)
        check_between("seed", body.seed, 0, MAX_SEED)
        async with cancelled_on_disconnect(request):
            prompts = await tasks.draw(name, body.split, body.n, body.seed, tenant_id=CALLERS)
        return {"prompts": [asdict(prompt) for prompt in prompts]}

    @router.post("/{name}/score")
    async def score(name: str, body: ScoreBody, request: Request) -> JsonObject:
        if not 1 <= len(body.items) <= MAX_ITEMS:
            raise InvalidField(field="items", problem=f"must be 1 to {MAX_ITEMS}, got {len(body.items)}")
        async with cancelled_on_disconnect(request):
            answers = [(item.entry, item.text) for item in body.items]
            rewards = await tasks.score(name, answers, tenant_id=CALLERS)
        return {"rewards": rewards}

    return router


def _view(info: TaskInfo) -> JsonObject:
    return {"name": info.name, "description": info.description, "defaults": asdict(info.defaults)}
