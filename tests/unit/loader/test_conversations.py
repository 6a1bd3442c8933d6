"""The check of what a conversation says."""

import json
from typing import Any

import pytest

from mint_common.errors import InvalidField
from mint_common.inference.body import MAX_DEPTH, MAX_NESTED
from mint_common.inference.operations import ApiOperation
from services.loader.core.inference.check import read_checked
from services.loader.core.inference.contents import MAX_ARGUMENTS

USER = {"role": "user", "content": "a"}


def check(operation: ApiOperation, **fields: object) -> Any:
    return read_checked(operation, json.dumps({"model": "m", **fields}).encode(), max_context=64).fields


def refused_field(operation: ApiOperation, **fields: object) -> str:
    with pytest.raises(InvalidField) as caught:
        check(operation, **fields)
    return str(caught.value.field)


def called(*arguments: object) -> list[dict[str, object]]:
    """Return messages with an earlier answer that called a tool so."""
    calls = [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": each}} for each in arguments
    ]
    return [USER, {"role": "assistant", "content": None, "tool_calls": calls}]


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        (ApiOperation.CHAT, {"messages": []}),
        (ApiOperation.CHAT_TOKENS, {"messages": [], "tokens": [1]}),
        (ApiOperation.MESSAGE, {"messages": [], "max_tokens": 1}),
        (ApiOperation.COUNT_TOKENS, {"messages": []}),
        (ApiOperation.TOKENIZE, {"messages": []}),
        (ApiOperation.RESPONSE, {"input": []}),
    ],
)
def test_a_conversation_has_messages(operation: ApiOperation, fields: dict[str, object]) -> None:
    assert refused_field(operation, **fields) == (
        "input" if operation is ApiOperation.RESPONSE else "messages"
    )


def test_an_item_without_content_is_refused_unless_it_is_reasoning() -> None:
    said: dict[str, object] = {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed"}
    assert refused_field(ApiOperation.RESPONSE, input=[USER, {**said, "content": []}]) == "input[1].content"
    thought: dict[str, object] = {"type": "reasoning", "id": "rs_1", "summary": [], "content": []}
    text = {"type": "output_text", "text": "b", "annotations": []}
    check(ApiOperation.RESPONSE, input=[USER, thought, {**said, "content": [text]}])


def test_a_refusal_of_the_responses_api_is_refused_by_name_and_one_of_chat_passes() -> None:
    part = {"type": "refusal", "refusal": "no"}
    said = {"type": "message", "role": "assistant", "content": [part]}
    assert refused_field(ApiOperation.RESPONSE, input=[said]).startswith("input[0].content[0]")
    check(ApiOperation.CHAT, messages=[USER, {"role": "assistant", "content": [part]}])


@pytest.mark.parametrize("arguments", ['{"city": "Rome"}', "", None, {"city": "Rome"}, "no JSON", '"[[["'])
def test_usual_arguments_pass(arguments: object) -> None:
    check(ApiOperation.CHAT, messages=called(arguments))


def test_arguments_full_of_code_pass() -> None:
    code = json.dumps({"code": "if (a[0]) { b[1]({}); }\n" * 200})
    check(ApiOperation.CHAT, messages=called(*[code] * 100))
    item = {"type": "function_call", "call_id": "1", "name": "f", "arguments": code}
    check(ApiOperation.RESPONSE, input=[USER, *[item] * 100])


@pytest.mark.parametrize("operation", [ApiOperation.CHAT, ApiOperation.TOKENIZE])
def test_arguments_are_bounded_in_size_and_depth(operation: ApiOperation) -> None:
    field = "messages[0].tool_calls[0].function.arguments"
    deep = "[" * (MAX_DEPTH + 1)
    assert refused_field(operation, messages=called(deep)[1:]) == field
    large = json.dumps({"a": "x" * MAX_ARGUMENTS})
    assert refused_field(operation, messages=called(large)[1:]) == field


def test_lists_and_objects_in_arguments_count_with_those_of_the_body() -> None:
    many = json.dumps({"a": [{}] * (MAX_NESTED // 4)})
    check(ApiOperation.CHAT, messages=called(*[many] * 3))
    assert refused_field(ApiOperation.CHAT, messages=called(*[many] * 4)) == "body"
    item = {"type": "function_call", "call_id": "1", "name": "f", "arguments": many}
    assert refused_field(ApiOperation.RESPONSE, input=[USER, *[item] * 4]) == "body"
    metadata = [[]] * (MAX_NESTED // 2)
    assert refused_field(ApiOperation.CHAT, messages=called(*[many] * 3), metadata=metadata) == "body"


def test_a_stream_has_no_echo_of_a_chat() -> None:
    check(ApiOperation.CHAT, messages=[USER], echo=True)
    check(ApiOperation.CHAT, messages=[USER], echo=False, stream=True)
    check(ApiOperation.COMPLETION, prompt="a", echo=True, stream=True)
    assert refused_field(ApiOperation.CHAT, messages=[USER], echo=True, stream=True) == "echo"
