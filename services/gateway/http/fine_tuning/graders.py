"""``/v1/fine_tuning/alpha/graders``: graders tried out before a job."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fastapi import APIRouter

from mint_common.graders import GradedSample, read_grader
from services.gateway.core.examples import body_config
from services.gateway.core.fine_tuning.graders import run_grader
from services.gateway.core.json_types import JsonObject
from services.gateway.http.edge.context import GatewayDep, TrainCaller
from services.gateway.http.edge.routes import OpenAIRoute

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["fine-tuning"], route_class=OpenAIRoute)

_EXAMPLE: JsonObject = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraderRunBody:
    """A grader, what a model answered, and the row that it answered."""

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"grader": _EXAMPLE, "model_sample": "4", "item": {"answer": "4"}}
    )

    grader: dict[str, Any]  # JSON
    model_sample: str
    item: dict[str, Any] = field(default_factory=dict)  # JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateBody:
    """A grader."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"grader": _EXAMPLE})

    grader: dict[str, Any]  # JSON


@router.post("/run")
async def run(body: GraderRunBody, _caller: TrainCaller, gateway: GatewayDep) -> JsonObject:
    """Grade one answer. What goes wrong in it is told in `metadata.errors`, with a reward of 0."""
    spec = await asyncio.to_thread(read_grader, body.grader)
    sample = GradedSample(output_text=body.model_sample, item=body.item)
    return await asyncio.to_thread(run_grader, spec, sample, gateway.clock.monotonic)


@router.post("/validate")
async def validate(body: ValidateBody, _caller: TrainCaller) -> JsonObject:
    """Return a grader that is well formed, unchanged; another is 400 and names its field."""
    await asyncio.to_thread(read_grader, body.grader)
    return {"grader": body.grader}
