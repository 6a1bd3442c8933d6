"""Fields that unmodified clients send: tools, ignored fields, stops, batches; and the usage they read."""

from typing import Any

import pytest

from tests.integration.loader.internal_api import CHAT, NAMED, Api

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize(
    ("choice", "said", "status"),
    [
        ("auto", {}, 200),
        ("none", {"strict": True}, 200),
        (NAMED, {"strict": False}, 200),
        ("required", {}, 422),
        ("auto", {"strict": True}, 422),
    ],
)
async def test_a_tools_schema_is_bounded_where_it_is_compiled(
    rig: Any, api: Api, choice: Any, said: dict[str, Any], status: int
) -> None:
    huge = {"type": "object", "properties": {"text": {"type": "string", "maxLength": 524_288}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": huge, **said}}
    answer = await api.ask("chat", tools=[tool], tool_choice=choice, **CHAT)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert "'tools': may count to 1000" in answer.json()["error"]["message"]


async def test_ignored_fields_are_named_and_the_answer_is_the_same(rig: Any, api: Api) -> None:
    plain = await api.ask("chat", **CHAT)
    assert "x-mint-ignored" not in plain.headers
    more = {"verbosity": "low", "prediction": {"type": "content", "content": "f"}, "user": "u", "store": None}
    for stream in (False, True):
        answer = await api.ask("chat", **CHAT, **more, stream=stream)
        assert answer.headers["x-mint-ignored"] == "verbosity, prediction, user"
        if not stream:
            assert answer.json()["choices"] == plain.json()["choices"]
    counted = await api.ask("count_tokens", messages=CHAT["messages"], context_management={"edits": []})
    assert counted.headers["x-mint-ignored"] == "context_management"


@pytest.mark.parametrize(("operation", "field"), [("chat", "stop"), ("message", "stop_sequences")])
async def test_16_stops_are_kept_to(rig: Any, api: Api, operation: str, field: str) -> None:
    asked = {**CHAT, "max_tokens": 20}
    told = (await api.ask(operation, **asked)).json()
    text = told["choices"][0]["message"]["content"] if operation == "chat" else told["content"][0]["text"]
    never = [f"never {n}" for n in range(15)]
    answer = await api.ask(operation, **asked, **{field: [*never, text[3]]})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    text_2 = told["choices"][0]["message"]["content"] if operation == "chat" else told["content"][0]["text"]
    assert text_2 == text[: text.index(text[3])]


async def test_cached_tokens_are_the_tenants_own(rig: Any, api: Api) -> None:
    """Two tenants send the same prompt: the second learns nothing of the first."""
    messages = [{"role": "user", "content": "cached by one tenant. " * 8}]
    chat = {"messages": messages, "max_tokens": 1, "temperature": 0}
    counts = {"stream_options": {"include_usage": True}}

    async def cached(operation: str, tenant: str, *path: str, **body: Any) -> int | None:
        told = (await api.ask(operation, tenant=tenant, **body)).json()["usage"]
        for name in path:
            told = (told or {}).get(name)
        return told

    openai, anthropic = ("prompt_tokens_details", "cached_tokens"), ("cache_read_input_tokens",)
    for tenant in ("cache-a", "cache-b"):
        assert await cached("chat", tenant, *openai, **chat) == 0
    found = await cached("chat", "cache-a", *openai, **chat)
    assert found > 0
    assert await cached("message", "cache-a", *anthropic, **chat) == found
    assert await cached("message", "cache-c", *anthropic, **chat) == 0
    response = {"input": messages[0]["content"], "max_output_tokens": 1, "temperature": 0}
    details = ("input_tokens_details", "cached_tokens")
    assert await cached("response", "cache-b", *details, **response) == found
    last = (await api.events("chat", tenant="cache-a", **chat, **counts))[-1]
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == found
    first, *_, end, _ = await api.events("message", tenant="cache-a", **chat)
    assert end["usage"]["cache_read_input_tokens"] == found, (first, end)


async def test_a_batch_answers_each_conversation_as_a_chat(rig: Any, api: Api) -> None:
    revision = await rig.revision(1)
    talks = [[{"role": "user", "content": f"f {word}="}] for word in ("abcd", "x", "hello")]
    asked = {"max_tokens": 6, "temperature": 0, "logprobs": True}
    answer = await api.ask("chat_batch", revision, messages=talks, **asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-mint-revision"] == revision.digest
    choices = answer.json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    for choice, messages in zip(choices, talks, strict=True):
        (alone,) = (await api.ask("chat", revision, messages=messages, **asked)).json()["choices"]
        assert choice["message"]["content"] == alone["message"]["content"]
    for wrong in ({"n": 2}, {"stream": True}, {"tools": [{}]}):
        (field,) = wrong
        refused = await api.ask("chat_batch", messages=talks, **asked, **wrong)
        assert f"Field {field!r}" in refused.json()["error"]["message"]
    assert (await api.ask("chat_batch", messages=[[], talks[0]], **asked)).status_code == 422
