"""Graders tried out before a job."""

import asyncio

from mint_common.graders import Grade, GradedSample, GraderFault, GraderSpec, read_grader
from mint_common.ids import TenantId
from mint_common.job_requests import GraderRunBody
from mint_common.json_types import JsonObject
from mint_common.runtime.clock import Clock
from mint_common.runtime.graders.runner import GraderRunner

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
"""Kinds of faults in OpenAI's answers, and their texts."""


async def checked_grader(graders: GraderRunner, grader: JsonObject, tenant_id: TenantId) -> GraderSpec:
    """Return a grader that can grade. Raises InvalidField, MetricNotSupported, GraderNotSupported."""
    spec = await asyncio.to_thread(read_grader, grader)
    await graders.check(spec, tenant_id=tenant_id)
    return spec


async def try_grader(
    graders: GraderRunner, body: GraderRunBody, tenant_id: TenantId, clock: Clock
) -> JsonObject:
    """Grade one answer, and return it as OpenAI's API shows it. Raises what `checked_grader` raises."""
    spec = await checked_grader(graders, body.grader, tenant_id)
    sample = GradedSample(output_text=body.model_sample, item=body.item)
    began = clock.monotonic()
    (found,) = await graders.grade(spec, [sample], tenant_id=tenant_id)
    return _run_answer(spec, found, seconds=clock.monotonic() - began)


def _run_answer(spec: GraderSpec, found: Grade | GraderFault, *, seconds: float) -> JsonObject:
    """Return the answer: a reward, or 0 with its error."""
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
