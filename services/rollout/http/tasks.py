"""Routes about tasks: what is installed, prompts to evaluate on, and scores."""

from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from mint_common.ids import BaseName
from mint_common.lora import MAX_SEED
from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.rollout.core.task import TaskInfo
from services.rollout.handlers.lengths import CALLERS, token_lengths
from services.rollout.ports import Sampler, Tasks

MAX_PROMPTS = 4096
MAX_MEASURED = 64


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DrawBody(_Body):
    """Which prompts are wanted."""

    split: Literal["train", "heldout"]
    n: int = Field(ge=1, le=MAX_PROMPTS)
    seed: int = Field(ge=0, le=MAX_SEED)


class ScoredItem(_Body):
    """A completion of the prompt with this entry."""

    entry: str
    text: str


class TextsBody(_Body):
    """Completions to score."""

    items: list[ScoredItem] = Field(max_length=MAX_PROMPTS)


class LengthsBody(_Body):
    """Which prompts are measured: those that a job of this seed begins with."""

    base: str
    n: int = Field(ge=1, le=MAX_MEASURED)
    seed: int = Field(ge=0, le=MAX_SEED)


def task_routes(tasks: Tasks, sampler: Sampler) -> APIRouter:
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
            prompts = await tasks.draw(name, body.split, body.n, body.seed, tenant_id=CALLERS)
        return {"prompts": [asdict(prompt) for prompt in prompts]}

    @router.post("/{name}/score")
    async def score(name: str, body: TextsBody, request: Request) -> dict[str, object]:
        async with cancelled_on_disconnect(request):
            answers = [(item.entry, item.text) for item in body.items]
            rewards = await tasks.score(name, answers, tenant_id=CALLERS)
        return {"rewards": rewards}

    @router.post("/{name}/lengths")
    async def measure(name: str, body: LengthsBody, request: Request) -> dict[str, object]:
        async with cancelled_on_disconnect(request):
            base = BaseName(body.base)
            found = await token_lengths(tasks, sampler, name, base=base, n=body.n, seed=body.seed)
        return asdict(found)

    return router


def _view(info: TaskInfo) -> dict[str, object]:
    return {"name": info.name, "description": info.description, "defaults": asdict(info.defaults)}
