"""``/v1/fine_tuning/alpha/graders``: graders tried out before a job."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fastapi import APIRouter, Request

from mint_common.authority import Caller
from mint_common.graders import Grade, GradedSample, GraderFault, GraderSpec, read_grader
from mint_common.json_types import JsonObject
from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.gateway.core.examples import body_config
from services.gateway.http.edge.context import Gateway, GatewayDep, TrainCaller
from services.gateway.http.edge.routes import OpenAIRoute

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["fine-tuning"], route_class=OpenAIRoute)

_EXAMPLE: JsonObject = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
_ERRORS = (
    "formula_parse_error",
    "invalid_variable_error",
    "model_grader_parse_error",
    "model_grader_refusal_error",
    "model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
)
_DETAILS = (
    "model_grader_server_error_details",
    "python_grader_runtime_error_details",
    "python_grader_server_error_type",
)
"""What OpenAI tells of a fault, and what it says of some."""


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
async def run(request: Request, body: GraderRunBody, caller: TrainCaller, gateway: GatewayDep) -> JsonObject:
    """Grade one answer. What goes wrong in it is told in `metadata.errors`, with a reward of 0."""
    async with cancelled_on_disconnect(request):
        spec = await checked_grader(body.grader, caller, gateway)
        sample = GradedSample(output_text=body.model_sample, item=body.item)
        began = gateway.clock.monotonic()
        (found,) = await gateway.graders.grade(spec, [sample], tenant_id=caller.tenant_id)
    return _run_answer(spec, found, seconds=gateway.clock.monotonic() - began)


@router.post("/validate")
async def validate(
    request: Request, body: ValidateBody, caller: TrainCaller, gateway: GatewayDep
) -> JsonObject:
    """Return a grader that can grade, unchanged; another is 400 and names its field.

    Source is run without an answer, and a model is looked up: it is a base, or a revision as `policy@N`.
    """
    async with cancelled_on_disconnect(request):
        await checked_grader(body.grader, caller, gateway)
    return {"grader": body.grader}


async def checked_grader(grader: JsonObject, caller: Caller, gateway: Gateway) -> GraderSpec:
    """Return a grader that can grade. Raises InvalidField, MetricNotSupported, GraderNotSupported."""
    spec = await asyncio.to_thread(read_grader, grader)
    await gateway.graders.check(spec, tenant_id=caller.tenant_id)
    return spec


def _run_answer(spec: GraderSpec, found: Grade | GraderFault, *, seconds: float) -> JsonObject:
    """Return the answer: a reward, or 0 with the error that it stands for."""
    errors: JsonObject = dict.fromkeys(_ERRORS, False) | dict.fromkeys(_DETAILS)
    if isinstance(found, GraderFault):
        errors |= {found.kind: True, "message": found.message}
        if (details := f"{found.kind}_details") in _DETAILS:
            errors[details] = found.message
    grade = Grade(reward=0.0) if isinstance(found, GraderFault) else found
    parts = dict(grade.sub_rewards)
    return {
        "reward": grade.reward,
        "sub_rewards": parts,
        "model_grader_token_usage_per_model": {},
        "metadata": {
            "name": spec.name,
            "type": spec.__struct_config__.tag,
            "errors": errors,
            "scores": parts,
            "sampled_model_name": None,
            "token_usage": None,
            "execution_time": seconds,
        },
    }
