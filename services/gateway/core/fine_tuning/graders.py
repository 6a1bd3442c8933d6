"""What a run of a grader answers, in OpenAI's shape."""

from collections.abc import Callable

from mint_common.graders import GradedSample, GraderFault, GraderSpec, grade
from services.gateway.core.json_types import JsonObject

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
_TYPES = {"StringCheck": "string_check", "TextSimilarity": "text_similarity", "MultiGrader": "multi"}


def run_grader(spec: GraderSpec, sample: GradedSample, seconds: Callable[[], float]) -> JsonObject:
    """Return the answer: a reward, or 0 with the error that it stands for. ``seconds`` reads a clock."""
    began = seconds()
    try:
        found = grade(spec, sample)
        reward, parts, fault = found.reward, dict(found.sub_rewards), None
    except GraderFault as error:
        reward, parts, fault = 0.0, {}, error
    errors: JsonObject = dict.fromkeys(_ERRORS, False) | dict.fromkeys(_DETAILS)
    if fault is not None:
        errors |= {fault.kind: True, "message": fault.message}
    return {
        "reward": reward,
        "sub_rewards": parts,
        "model_grader_token_usage_per_model": {},
        "metadata": {
            "name": spec.name,
            "type": _TYPES[type(spec).__name__],
            "errors": errors,
            "scores": parts,
            "sampled_model_name": None,
            "token_usage": None,
            "execution_time": seconds() - began,
        },
    }
