"""Sandboxes for python graders. Both block, and are called in separate threads."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from mint_common.graders import MAX_REWARD, GradedSample, GraderFault

MAX_MESSAGE = 2000
"""Characters of a fault's message: a traceback, or its end."""
MAX_VALUE = 400
"""Characters of what leaves a sandbox of a value: more than any number within `MAX_REWARD` has."""
_SHOWN = 100


class PythonSandbox(Protocol):
    """Runs graders' source outside the service: no files, network or processes, limited in time.

    Calls share no state. Thread-safe.
    """

    def check(self, source: str) -> None:
        """Run a source without grading. Raises GraderFault unless it then has a function ``grade``."""
        ...

    def grade(self, source: str, sample: GradedSample) -> float:
        """Return what ``grade(sample, item)`` returns, a finite number. Raises GraderFault."""
        ...

    def close(self) -> None:
        """End all processes. Idempotent; what runs ends with a fault."""
        ...


def sample_fields(sample: GradedSample) -> dict[str, Any]:  # JSON
    """Return a source's sample argument; ``output_json`` is None unless the text is JSON."""
    try:
        output_json = sample.output_json()
    except GraderFault:
        output_json = None
    return {"output_text": sample.output_text, "output_json": output_json}


def call_json(call: Mapping[str, Any]) -> bytes:  # JSON
    """Return a call as JSON. Raises GraderFault."""
    try:
        return msgspec.json.encode(call)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        problem = "the sample or its row cannot be written as JSON"
        raise GraderFault("invalid_variable_error", problem) from error


def reward_of(value: str) -> float:
    """Return the reward in a value's text, the beginning of its ``repr``.

    Raises GraderFault for a bool, None, NaN, or a value beyond `MAX_REWARD`. Values themselves stay
    in the sandbox: their texts may be endless.
    """
    try:
        reward = float(value)
    except ValueError:
        reward = math.nan
    if abs(reward) <= MAX_REWARD:
        return reward
    raise runtime_fault(f"grade returned {value[:_SHOWN]}, which is not a number within +-{MAX_REWARD:,.0f}")


def runtime_fault(problem: str) -> GraderFault:
    """Return the fault of a source: its error, or its limit."""
    return GraderFault("python_grader_runtime_error", problem[-MAX_MESSAGE:])
