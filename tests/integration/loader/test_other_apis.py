"""The model door in the words of OpenAI's Responses and Anthropic's Messages, asked by their own clients."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from mint_common.inference.operations import ApiOperation
from services.rollout.core.door.conversation import turn_of
from services.rollout.core.door.other_apis import (
    MESSAGES,
    RESPONSES,
    OtherApi,
    answered_body,
    chat_of,
    read_other,
    replay_of,
)
from services.rollout.core.trajectories import ModelCall
from services.rollout.handlers.open_episode import OpenEpisode
from tests.integration.loader.conftest import Rig
from tests.integration.loader.test_model_door import TERMS, TOOLS, USER, OpenDoor, opened

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

__all__ = ["opened"]
MORE: Any = {"role": "user", "content": " 4 5"}
SYSTEM = "count"
RESPONSE_TOOLS: Any = [{"type": "function", **TOOLS[0]["function"]}]
MESSAGE_TOOLS: Any = [{"name": "add", "input_schema": TOOLS[0]["function"]["parameters"]}]


@asynccontextmanager
async def anthropics(opened: OpenDoor, path: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Return Anthropic's client of an episode."""
    address = f"http://localhost{path}"
    transport = httpx2.AsyncHTTPTransport(uds=str(opened.door.socket))
    async with httpx2.AsyncClient(transport=transport, base_url=address) as http:
        yield anthropic.AsyncAnthropic(base_url=address, api_key="none", http_client=http, max_retries=0)


def check_one_segment(episode: OpenEpisode, outputs: list[int]) -> None:
    """Check that turns continue each other token for token, and how many tokens each sampled."""
    (segment,) = episode.segments
    assert [end - start for start, end in segment.trained] == outputs
    assert len(segment.trained) == episode.turns
    assert episode.fault is None


async def test_turns_of_openais_responses_are_one_segment(opened: OpenDoor) -> None:
    with opened.episode() as (path, episode):
        async with opened.openai(path) as client:
            said: Any = [USER]
            outputs = []
            for stream in (False, True, False):
                asked: Any = {
                    "model": "policy",
                    "input": said,
                    "instructions": SYSTEM,
                    "max_output_tokens": 4,
                }
                if stream:
                    async with client.responses.stream(**asked) as events:
                        texts = [
                            each.delta async for each in events if each.type == "response.output_text.delta"
                        ]
                        answer = await events.get_final_response()
                    assert "".join(texts) == answer.output_text
                else:
                    answer = await client.responses.create(**asked)
                assert (answer.model, answer.object) == ("policy", "response")
                assert answer.usage is not None
                outputs.append(answer.usage.output_tokens)
                said += [*answer.output, MORE]
        check_one_segment(episode, outputs)
        assert all(count <= 4 for count in outputs)
        assert answer.usage is not None
        assert answer.usage.input_tokens == episode.segments[0].trained[-1][0]
        assert answer.status in {"completed", "incomplete"}


async def test_turns_of_anthropics_messages_are_one_segment(opened: OpenDoor) -> None:
    with opened.episode() as (path, episode):
        async with anthropics(opened, path) as client:
            said: Any = [USER]
            outputs = []
            for stream in (False, True, False):
                asked: Any = {"model": "policy", "messages": said, "system": SYSTEM, "max_tokens": 4}
                if stream:
                    async with client.messages.stream(**asked) as events:
                        texts = [each async for each in events.text_stream]
                        answer = await events.get_final_message()
                    assert "".join(texts) == "".join(b.text for b in answer.content if b.type == "text")
                else:
                    answer = await client.messages.create(**asked)
                assert (answer.model, answer.type, answer.role) == ("policy", "message", "assistant")
                assert answer.stop_reason in {"end_turn", "max_tokens"}
                outputs.append(answer.usage.output_tokens)
                said += [{"role": "assistant", "content": answer.content}, MORE]
        check_one_segment(episode, outputs)


@pytest.mark.parametrize("api", [RESPONSES, MESSAGES], ids=lambda api: api.conversation)
async def test_a_prompt_is_what_vllm_makes_of_the_request(opened: OpenDoor, rig: Rig, api: OtherApi) -> None:
    tools = RESPONSE_TOOLS if api is RESPONSES else MESSAGE_TOOLS
    body: Any = {"model": "policy", api.conversation: [USER, MORE], "tools": tools}
    limit = "max_output_tokens" if api is RESPONSES else "max_tokens"
    system = "instructions" if api is RESPONSES else "system"
    body |= {limit: 2, system: SYSTEM}
    with opened.episode() as (_, episode):
        await episode.other(read_other(api, json.dumps(body).encode()))
        (segment,) = episode.segments
    operation = ApiOperation.RESPONSE if api is RESPONSES else ApiOperation.MESSAGE
    chat = opened.door.parts.chat
    whole = json.loads(await chat._ask(TERMS.base, operation, body, TERMS.tenant_id))
    assert whole["usage"]["input_tokens"] == segment.prompt_length


@pytest.mark.parametrize("api", [RESPONSES, MESSAGES], ids=lambda api: api.conversation)
async def test_tool_calls_are_answered_in_the_words_of_the_api_and_continue(
    opened: OpenDoor, api: OtherApi
) -> None:
    chat, base, tenant = opened.door.parts.chat, TERMS.base, TERMS.tenant_id
    text = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
    asked = {"prompt": text, "add_special_tokens": False}
    found = json.loads(await chat.tokenize(base, asked, tenant_id=tenant))["tokens"]
    call = ModelCall(prompt=(5, 6), completion=(*found, 2), logprobs=(-1.0,) * (len(found) + 1), text=text)
    tools = RESPONSE_TOOLS if api is RESPONSES else MESSAGE_TOOLS
    limit = {} if api is RESPONSES else {"max_tokens": 4}
    body = {"model": "policy", api.conversation: [USER], "tools": tools, **limit}
    request = read_other(api, json.dumps(body).encode())
    replay: Any = [
        await chat.replay(
            base, api.replay, replay_of(request, call, stream=stream), model="policy", tenant_id=tenant
        )
        for stream in (False, True)
    ]
    whole, events = replay[0].answer, replay[1].events
    after = await chat.prepare(base, api.prepare, answered_body(request, whole), tenant_id=tenant)
    (made,) = after.messages[-1]["tool_calls"]
    assert (made["function"]["name"], json.loads(made["function"]["arguments"])) == ("add", {"a": 1, "b": 2})
    assert "add" in events
    with opened.episode() as (_, episode):
        template = chat_of(await chat.prepare(base, api.prepare, request.body, tenant_id=tenant)).template
        episode._answered.append(turn_of(after.messages, template, call.tokens, is_cut=False))
        result: Any = {"type": "function_call_output", "call_id": made["id"], "output": "3"}
        if api is MESSAGES:
            block = {"type": "tool_result", "tool_use_id": made["id"], "content": "3"}
            result = {"role": "user", "content": [block]}
        turn = answered_body(request, whole)
        turn[api.conversation].append(result)
        await episode.other(read_other(api, json.dumps(turn).encode()))
        (segment,) = episode.segments
        assert segment.tokens[: len(call.tokens)] == call.tokens
        assert segment.prompt_length > len(call.tokens)


async def test_what_the_door_does_not_take_is_an_error_of_the_api(opened: OpenDoor) -> None:
    with opened.episode(max_turns=1) as (path, episode):
        async with opened.openai(path) as client:
            with pytest.raises(openai.BadRequestError, match="top_p"):
                await client.responses.create(model="policy", input="1 2", top_p=0.5)
            await client.responses.create(model="policy", input="1 2", max_output_tokens=2)
            with pytest.raises(openai.BadRequestError, match="max_turns"):
                await client.responses.create(model="policy", input="1 2")
        async with anthropics(opened, path) as client_of_anthropic:
            with pytest.raises(anthropic.BadRequestError, match="stop_sequences"):
                await client_of_anthropic.messages.create(
                    model="policy",
                    max_tokens=2,
                    messages=[USER],
                    stop_sequences=["a"],  # type: ignore[list-item]
                )
        assert episode.at_limit
        assert episode.turns == 1
