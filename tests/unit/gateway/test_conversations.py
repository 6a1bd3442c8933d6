"""The check of what a conversation says."""

import json
from typing import Any

import pytest

from mint_common.errors import InvalidField
from services.gateway.core.openai.engine_bounds import MAX_DEPTH, MAX_NESTED
from services.gateway.core.openai.field_shapes import MAX_ARGUMENTS
from services.gateway.core.openai.field_table import Endpoint
from services.gateway.core.openai.fields import check_fields

USER = {"role": "user", "content": "a"}


def check(endpoint: Endpoint, **fields: object) -> Any:
    return check_fields(endpoint, json.dumps({"model": "m", **fields}).encode(), max_context=64)


def refused_field(endpoint: Endpoint, **fields: object) -> str:
    with pytest.raises(InvalidField) as caught:
        check(endpoint, **fields)
    return str(caught.value.field)


def called(*arguments: object) -> list[dict[str, object]]:
    """Return messages with an earlier answer that called a tool so."""
    calls = [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": each}} for each in arguments
    ]
    return [USER, {"role": "assistant", "content": None, "tool_calls": calls}]


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (Endpoint.CHAT, {"messages": []}),
        (Endpoint.CHAT_TOKENS, {"messages": [], "tokens": [1]}),
        (Endpoint.MESSAGE, {"messages": [], "max_tokens": 1}),
        (Endpoint.COUNT_TOKENS, {"messages": []}),
        (Endpoint.TOKENIZE, {"messages": []}),
        (Endpoint.RESPONSE, {"input": []}),
    ],
)
def test_a_conversation_has_messages(endpoint: Endpoint, fields: dict[str, object]) -> None:
    assert refused_field(endpoint, **fields) == ("input" if endpoint is Endpoint.RESPONSE else "messages")


def test_an_item_without_content_is_refused_unless_it_is_reasoning() -> None:
    said: dict[str, object] = {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed"}
    assert refused_field(Endpoint.RESPONSE, input=[USER, {**said, "content": []}]) == "input[1].content"
    thought: dict[str, object] = {"type": "reasoning", "id": "rs_1", "summary": [], "content": []}
    text = {"type": "output_text", "text": "b", "annotations": []}
    check(Endpoint.RESPONSE, input=[USER, thought, {**said, "content": [text]}])


def test_a_refusal_of_the_responses_api_is_refused_by_name_and_one_of_chat_passes() -> None:
    part = {"type": "refusal", "refusal": "no"}
    said = {"type": "message", "role": "assistant", "content": [part]}
    assert refused_field(Endpoint.RESPONSE, input=[said]).startswith("input[0].content[0]")
    check(Endpoint.CHAT, messages=[USER, {"role": "assistant", "content": [part]}])


@pytest.mark.parametrize("arguments", ['{"city": "Rome"}', "", None, {"city": "Rome"}, "no JSON", '"[[["'])
def test_usual_arguments_pass(arguments: object) -> None:
    check(Endpoint.CHAT, messages=called(arguments))


def test_arguments_full_of_code_pass() -> None:
    code = json.dumps({"code": "if (a[0]) { b[1]({}); }\n" * 200})
    check(Endpoint.CHAT, messages=called(*[code] * 100))
    item = {"type": "function_call", "call_id": "1", "name": "f", "arguments": code}
    check(Endpoint.RESPONSE, input=[USER, *[item] * 100])


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.TOKENIZE])
def test_arguments_are_bounded_in_size_and_depth(endpoint: Endpoint) -> None:
    field = "messages[0].tool_calls[0].function.arguments"
    deep = "[" * (MAX_DEPTH + 1)
    assert refused_field(endpoint, messages=called(deep)[1:]) == field
    large = json.dumps({"a": "x" * MAX_ARGUMENTS})
    assert refused_field(endpoint, messages=called(large)[1:]) == field


def test_lists_and_objects_in_arguments_count_with_those_of_the_body() -> None:
    many = json.dumps({"a": [{}] * (MAX_NESTED // 4)})
    check(Endpoint.CHAT, messages=called(*[many] * 3))
    assert refused_field(Endpoint.CHAT, messages=called(*[many] * 4)) == "body"
    item = {"type": "function_call", "call_id": "1", "name": "f", "arguments": many}
    assert refused_field(Endpoint.RESPONSE, input=[USER, *[item] * 4]) == "body"
    metadata = [[]] * (MAX_NESTED // 2)
    assert refused_field(Endpoint.CHAT, messages=called(*[many] * 3), metadata=metadata) == "body"


def test_a_stream_has_no_echo_of_a_chat() -> None:
    check(Endpoint.CHAT, messages=[USER], echo=True)
    check(Endpoint.CHAT, messages=[USER], echo=False, stream=True)
    check(Endpoint.COMPLETION, prompt="a", echo=True, stream=True)
    assert refused_field(Endpoint.CHAT, messages=[USER], echo=True, stream=True) == "echo"
