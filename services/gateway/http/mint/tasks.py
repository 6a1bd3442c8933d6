"""``/mint/v1/tasks``: what policies can be trained on, and the means to evaluate them from outside."""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from fastapi import APIRouter, Request

from mint_common.bounds import check_between
from mint_common.errors import InvalidField
from mint_common.json_types import JsonObject
from mint_common.lora import MAX_SEED
from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.gateway.core.examples import body_config
from services.gateway.http.edge.context import GatewayDep, ReadCaller, TrainCaller
from services.gateway.http.edge.routes import GatewayRoute


class TaskRoute(GatewayRoute):
    """A route that may take many completions."""

    max_body_bytes = 4 << 20


router = APIRouter(prefix="/mint/v1/tasks", tags=["tasks"], route_class=TaskRoute)

MAX_ITEMS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsBody:
    """Which prompts: the same split, number and seed give the same prompts."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"split": "heldout", "n": 4, "seed": 0})

    split: Literal["train", "heldout"] = "heldout"
    n: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreItem:
    """A completion, and the ``entry`` of the prompt that it answers."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    entry: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreBody:
    """What to score."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"items": [{"entry": "0", "text": "7 8 9"}]})

    items: tuple[ScoreItem, ...]


@router.get("")
async def list_tasks(_caller: ReadCaller, gateway: GatewayDep) -> object:
    """List the installed tasks."""
    return await gateway.rollout.tasks()


@router.get("/{task}")
async def get_task(task: str, _caller: ReadCaller, gateway: GatewayDep) -> JsonObject:
    """Return one task with the hyper-parameters that it recommends."""
    return await gateway.rollout.task(task)


@router.post("/{task}/prompts")
async def draw_prompts(
    task: str, body: PromptsBody, _caller: TrainCaller, gateway: GatewayDep, request: Request
) -> object:
    """Draw prompts with their reference answers."""
    check_between("n", body.n, 1, MAX_ITEMS)
    check_between("seed", body.seed, 0, MAX_SEED)
    async with cancelled_on_disconnect(request):
        return await gateway.rollout.draw_prompts(task, asdict(body))


@router.post("/{task}/score")
async def score(
    task: str, body: ScoreBody, _caller: TrainCaller, gateway: GatewayDep, request: Request
) -> object:
    """Score completions as training would."""
    if not 1 <= len(body.items) <= MAX_ITEMS:
        raise InvalidField(field="items", problem=f"must be 1 to {MAX_ITEMS}, got {len(body.items)}")
    async with cancelled_on_disconnect(request):
        return await gateway.rollout.score(task, asdict(body))
