"""OpenTelemetry's GenAI attributes of a serving request's span; only this module has their names.

The conventions are in development: these are of schema gen-ai/1.42.0. Attributes under ``mint.`` are ours.
"""

import re
from collections.abc import Mapping

from mint_common.catalog import Resolution
from mint_common.generation import ENGINE_HEADER, TIER_HEADER
from mint_common.inference.operations import ApiOperation
from services.gateway.core.openai.serving_request import ServingRequest

PROVIDER = "mint"
_OPERATIONS = {ApiOperation.COMPLETION: "text_completion", ApiOperation.GENERATE: "text_completion"}
_COUNTS = {
    "gen_ai.usage.input_tokens": re.compile(rb'"(?:prompt_tokens|input_tokens)" ?: ?(\d{1,12})'),
    "gen_ai.usage.output_tokens": re.compile(rb'"(?:completion_tokens|output_tokens)" ?: ?(\d{1,12})'),
}
# A quote within a text of the answer has a backslash before it, so none of these matches there.
_REASON = re.compile(rb'"(?:finish_reason|stop_reason)" ?: ?"([a-z_]{1,40})"')

Attributes = dict[str, str | int | tuple[str, ...]]


def request_attributes(asked: ServingRequest) -> Attributes:
    """Return the attributes of a request."""
    attributes: Attributes = {
        "gen_ai.operation.name": _OPERATIONS.get(asked.operation, "chat"),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": asked.model,
        "gen_ai.request.choice.count": asked.choices,
    }
    if asked.max_tokens is not None:
        attributes["gen_ai.request.max_tokens"] = asked.max_tokens
    return attributes


def target_attributes(target: Resolution) -> Attributes:
    """Return the attributes of the answering revision or base."""
    if target.revision is None:
        return {"gen_ai.response.model": str(target.base)}
    return {
        "gen_ai.response.model": f"{target.policy_name}@{target.revision.number}",
        "mint.revision.digest": str(target.revision.digest),
    }


def engine_attributes(headers: Mapping[str, str]) -> Attributes:
    """Return the engine and the tier of its adapter, from the headers of its answer."""
    found = {"mint.engine_id": headers.get(ENGINE_HEADER), "mint.tier": headers.get(TIER_HEADER)}
    return {name: value for name, value in found.items() if value is not None}


def answer_attributes(end: bytes) -> Attributes:
    """Return the token counts and finish reason in an answer, or in the end of a stream."""
    attributes: Attributes = {}
    for name, pattern in _COUNTS.items():
        counts = pattern.findall(end)
        if counts:
            attributes[name] = int(counts[-1])
    reasons = tuple(reason.decode() for reason in _REASON.findall(end))
    if reasons:
        attributes["gen_ai.response.finish_reasons"] = reasons
    return attributes
