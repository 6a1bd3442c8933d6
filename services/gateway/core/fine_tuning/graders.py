"""What a run of a grader answers, in OpenAI's shape."""

from mint_common.graders import Grade, GraderFault, GraderSpec
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


def run_answer(spec: GraderSpec, found: Grade | GraderFault, *, seconds: float) -> JsonObject:
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
