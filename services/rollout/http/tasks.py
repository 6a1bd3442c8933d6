"""Routes about tasks: what is installed, prompts to evaluate on, and scores."""

from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.rollout.core.task import TaskInfo
from services.rollout.ports import Tasks

MAX_PROMPTS = 4096
MAX_SEED = (1 << 63) - 1


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DrawBody(_Body):
    """Which prompts are wanted."""

    split: Literal["train", "heldout"]
    n: int = Field(ge=1, le=MAX_PROMPTS)
    seed: int = Field(ge=-MAX_SEED, le=MAX_SEED)


class ScoredItem(_Body):
    """A completion of the prompt with this entry."""

    entry: str
    text: str


class TextsBody(_Body):
    """Completions to score."""

    items: list[ScoredItem] = Field(max_length=MAX_PROMPTS)


def task_routes(tasks: Tasks) -> APIRouter:
    """Return the routes under /internal/tasks."""
    router = APIRouter(prefix="/internal/tasks")

    @router.get("")
    async def list_tasks() -> list[dict[str, object]]:
        return [_view(info) for info in await tasks.describe_all()]

    @router.get("/{name}")
    async def show_task(name: str) -> dict[str, object]:
        return _view(await tasks.describe(name))

    @router.post("/{name}/prompts")
    async def draw_prompts(name: str, body: DrawBody, request: Request) -> dict[str, object]:
        async with cancelled_on_disconnect(request):
            prompts = await tasks.draw(name, body.split, body.n, body.seed)
        return {"prompts": [asdict(prompt) for prompt in prompts]}

    @router.post("/{name}/score")
    async def score(name: str, body: TextsBody, request: Request) -> dict[str, object]:
        async with cancelled_on_disconnect(request):
            rewards = await tasks.score(name, [(item.entry, item.text) for item in body.items])
        return {"rewards": rewards}

    return router


def _view(info: TaskInfo) -> dict[str, object]:
    return {"name": info.name, "description": info.description, "defaults": asdict(info.defaults)}
