"""Requests of OpenAI's Responses and Anthropic's Messages at the model door."""

import json
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from mint_common.errors import InvalidField
from services.rollout.core.door.other_apis import (
    MESSAGES,
    RESPONSES,
    OtherApi,
    Prepared,
    answered_body,
    chat_of,
    read_other,
)

USER = {"role": "user", "content": "2 4 6"}
SMALLEST: dict[str, dict[str, Any]] = {
    "input": {"model": "policy", "input": "2 4 6"},
    "messages": {"model": "policy", "messages": [USER], "max_tokens": 4},
}
OF_THEIR_OWN = {
    *("prompt", "moderation", "image", "background_options", "access_programs"),
    *("user_profile_id", "workspace_id", "diagnostics"),
}
"""Parameters about accounts and parts of the vendors' own, which are refused as any unknown field is."""


def read(api: OtherApi, **fields: object) -> Any:
    return read_other(api, json.dumps({**SMALLEST[api.conversation], **fields}).encode())


@pytest.mark.parametrize(
    ("api", "fields", "name"),
    [
        (RESPONSES, {"top_p": 0.5}, "top_p"),
        (RESPONSES, {"text": {"format": {"type": "json_object"}}}, "text"),
        (RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id"),
        (RESPONSES, {"truncation": "auto"}, "truncation"),
        (RESPONSES, {"stop": ["a"]}, "stop"),
        (RESPONSES, {"messages": [USER]}, "messages"),
        (MESSAGES, {"top_k": 5}, "top_k"),
        (MESSAGES, {"stop_sequences": ["a"]}, "stop_sequences"),
        (MESSAGES, {"stream": "yes"}, "stream"),
        (MESSAGES, {"input": "2"}, "input"),
    ],
)
def test_what_would_change_the_distribution_or_is_of_another_api_is_refused(
    api: OtherApi, fields: dict[str, Any], name: str
) -> None:
    with pytest.raises(InvalidField) as refused:
        read(api, **fields)
    assert refused.value.field == name


def test_what_changes_nothing_is_left_out() -> None:
    found = read(
        RESPONSES, temperature=0.1, store=False, top_p=1, text={"format": {"type": "text"}}, stream=True
    )
    assert (found.stream, set(found.body)) == (True, {"model", "input", "top_p", "text"})
    found = read(MESSAGES, temperature=1.0, metadata={"user_id": "u"}, system="be brief")
    assert (found.stream, set(found.body)) == (False, {"model", "messages", "max_tokens", "system"})


@pytest.mark.parametrize(
    ("api", "params"), [(RESPONSES, ResponseCreateParamsBase), (MESSAGES, MessageCreateParamsBase)]
)
def test_every_parameter_of_the_official_clients_has_a_rule(api: OtherApi, params: Any) -> None:
    assert set(params.__annotations__) - set(api.rules) <= OF_THEIR_OWN


def test_a_request_is_repeated_with_its_answer_as_the_next_turn_has_it() -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "8"}]}
    after = answered_body(read(RESPONSES), {"output": [said]})
    assert after["input"] == [USER, said]
    after = answered_body(read(RESPONSES, input=[USER]), {"output": [said]})
    assert after["input"] == [USER, said]
    blocks = [{"type": "text", "text": "8"}]
    after = answered_body(read(MESSAGES), {"content": blocks})
    assert after["messages"] == [USER, {"role": "assistant", "content": blocks}]


def test_a_forced_tool_is_refused() -> None:
    for choice in ("required", {"type": "function", "function": {"name": "add"}}):
        with pytest.raises(InvalidField, match="tool_choice"):
            chat_of(Prepared(messages=[USER], template={"tools": [], "tool_choice": choice}))
    found = chat_of(Prepared(messages=[USER], template={"tool_choice": "auto"}, max_tokens=4))
    assert (found.limit, found.template) == (4, {})
