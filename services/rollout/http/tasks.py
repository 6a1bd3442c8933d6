"""Routes about tasks: what is installed, prompts to evaluate on, and scores."""

import asyncio
from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from services.rollout.ports import Task, TaskCatalog

MAX_PROMPTS = 4096


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptsBody(_Body):
    """Which prompts are wanted."""

    split: Literal["train", "heldout"]
    n: int = Field(ge=1, le=MAX_PROMPTS)
    seed: int


class ScoredItem(_Body):
    """A completion of the prompt with this entry."""

    entry: str
    text: str


class ScoreBody(_Body):
    """Completions to score."""

    items: list[ScoredItem] = Field(max_length=MAX_PROMPTS)


def task_routes(tasks: TaskCatalog) -> APIRouter:
    """Return the routes under /internal/tasks."""
    router = APIRouter(prefix="/internal/tasks")

    @router.get("")
    async def list_tasks() -> list[dict[str, object]]:
        return await asyncio.to_thread(lambda: [_view(tasks.task(name)) for name in tasks.names()])

    @router.get("/{name}")
    async def show_task(name: str) -> dict[str, object]:
        return _view(await asyncio.to_thread(tasks.task, name))

    @router.post("/{name}/prompts")
    async def draw_prompts(name: str, body: PromptsBody) -> dict[str, object]:
        task = await asyncio.to_thread(tasks.task, name)
        prompts = await asyncio.to_thread(task.prompts, body.split, body.n, body.seed)
        return {"prompts": [asdict(prompt) for prompt in prompts]}

    @router.post("/{name}/score")
    async def score(name: str, body: ScoreBody) -> dict[str, list[float]]:
        task = await asyncio.to_thread(tasks.task, name)
        rewards = await asyncio.to_thread(lambda: [task.reward(item.entry, item.text) for item in body.items])
        return {"rewards": rewards}

    return router


def _view(task: Task) -> dict[str, object]:
    return {"name": task.name, "description": task.description, "defaults": asdict(task.defaults)}
