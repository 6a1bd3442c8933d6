"""Requests at the model door in the words of OpenAI's Responses and Anthropic's Messages, read and checked.

The loader says what each is as a request of chat, which is answered as any other; it then says what the
sampled tokens are as an answer of the same API. Both conversions are vLLM's.

Invariant: as of chat, what is sampled is the policy's own distribution at the job's temperature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mint_common.errors import InvalidField
from mint_common.inference.body import read_body
from mint_common.inference.fields import VALUE_BYTES, FieldRules, accepted, check_fields, ignored, refused
from mint_common.inference.operations import ApiOperation
from mint_common.json_reading import convert_json
from services.rollout.core.door.requests import SAME_DISTRIBUTION, SERVING, ChatRequest, Json
from services.rollout.core.trajectories import ModelCall

_OWN = "an episode samples the policy's own distribution, which is what is trained"
_NOT_STORED = "answers are not stored: send all of the input"
_RESPONSE: FieldRules = {
    **SAME_DISTRIBUTION,
    **SERVING,
    **accepted("model input instructions tools tool_choice chat_template_kwargs reasoning", max_bytes=None),
    **accepted("max_output_tokens stream include parallel_tool_calls max_tool_calls"),
    **ignored("prompt_cache_options stream_options context_management", "no answer depends on it"),
    **refused("text", _OWN, {}, {"format": {"type": "text"}}),
    **refused("truncation", "the whole input is used", "disabled"),
    **refused("background", _NOT_STORED, False),
    **refused("previous_response_id conversation", _NOT_STORED),
}
_MESSAGE: FieldRules = {
    **SAME_DISTRIBUTION,
    **SERVING,
    **accepted("model messages system tools tool_choice thinking chat_template_kwargs", max_bytes=None),
    **accepted("max_tokens stream"),
    **ignored("cache_control speed inference_geo context_management", "no answer depends on it"),
    **refused("stop_sequences", _OWN, []),
    **refused("output_config", _OWN, {}),
    **refused("container mcp_servers betas", "Anthropic's own", []),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherApi:
    """An API beside chat: the loader's conversions, and where its requests have the conversation."""

    rules: FieldRules
    prepare: ApiOperation
    replay: ApiOperation
    conversation: str


RESPONSES = OtherApi(
    rules=_RESPONSE,
    prepare=ApiOperation.PREPARE_RESPONSE,
    replay=ApiOperation.REPLAY_RESPONSE,
    conversation="input",
)
MESSAGES = OtherApi(
    rules=_MESSAGE,
    prepare=ApiOperation.PREPARE_MESSAGE,
    replay=ApiOperation.REPLAY_MESSAGE,
    conversation="messages",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherRequest:
    """A checked request of another API: its body without what changes nothing here."""

    api: OtherApi
    body: Json
    stream: bool


class Prepared(msgspec.Struct, frozen=True):
    """A request of another API as one of chat; ``template`` has the fields that the template reads."""

    messages: list[Json]
    template: Json
    max_tokens: int | None = None


class Replayed(msgspec.Struct, frozen=True):
    """Sampled tokens as an answer of another API: whole, or as the events of a stream."""

    answer: Json | None = None
    events: str = ""


def read_other(api: OtherApi, body: bytes) -> OtherRequest:
    """Return a request. Raises InvalidField naming the first wrong field."""
    read = read_body(body)
    for name in check_fields(read, api.rules, is_large=len(body) > VALUE_BYTES):
        del read[name]
    stream = convert_json(read.pop("stream", None), bool | None, field="stream")
    return OtherRequest(api=api, body=read, stream=bool(stream))


def chat_of(prepared: Prepared) -> ChatRequest:
    """Return a prepared request as one of chat. Raises InvalidField for a forced tool."""
    template = prepared.template
    if template.get("tool_choice") not in (None, "auto", "none"):
        raise InvalidField(field="tool_choice", problem=f"is not accepted ({_OWN}): omit it")
    return ChatRequest(
        messages=prepared.messages,
        tools=template.get("tools"),
        tool_choice=template.get("tool_choice"),
        chat_template_kwargs=template.get("chat_template_kwargs"),
        reasoning_effort=template.get("reasoning_effort"),
        max_tokens=prepared.max_tokens,
    )


def replay_of(request: OtherRequest, call: ModelCall, *, stream: bool) -> Json:
    """Return what has the loader say which answer sampled tokens are."""
    return {
        "request": {**request.body, "stream": stream},
        "prompt_token_ids": call.prompt,
        "token_ids": call.completion,
        "logprobs": call.logprobs,
        "finish_reason": call.reason,
    }


def answered_body(request: OtherRequest, answer: Json) -> Json:
    """Return the request that repeats another one with its answer, as the next turn does."""
    place = request.api.conversation
    said: Any = request.body.get(place)
    before: Sequence[Any] = [{"role": "user", "content": said}] if isinstance(said, str) else said
    if request.api is RESPONSES:
        return {**request.body, place: [*before, *answer["output"]]}
    return {**request.body, place: [*before, {"role": "assistant", "content": answer["content"]}]}
