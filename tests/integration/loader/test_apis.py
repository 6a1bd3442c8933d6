"""The inference APIs of a loader: vLLM's own answers, at any revision."""

import asyncio
import json
from typing import Any

import pytest

from mint_common.ids import TenantId
from services.loader.adapters.vllm.openai import whole_answers
from services.loader.core.inference import structures
from tests.integration.loader.internal_api import ASKED, CHAT, NAMED, Api, facts_of
from tests.integration.loader.slow_structures import AMBIGUOUS_RULES, MANY_PROPERTIES

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

CITIES = ["Rome", "Oslo"]
CITY = {"type": "object", "properties": {"city": {"enum": CITIES}}, "required": ["city"]}
LONG = "x" * (1 << 20)
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[" * 100_000}}
DEEP_CALL = {"role": "assistant", "tool_calls": [CALL]}
SAID = {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed"}


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (
            "chat",
            {
                **CHAT,
                "n": 3,
                "temperature": 1,
                "seed": 5,
                "max_tokens": 20,
                "logprobs": True,
                "top_logprobs": 20,
            },
        ),
        ("completion", {"prompt": ["f abcd=", "r ab="], "max_tokens": 20, "temperature": 0, "logprobs": 20}),
        (
            "completion",
            {"prompt": "f abcd=", "max_tokens": 40, "temperature": 0, "logprobs": 20, "echo": True},
        ),
    ],
)
async def test_log_probabilities_made_later_are_those_that_vllm_makes_at_once(
    rig: Any, api: Api, monkeypatch: pytest.MonkeyPatch, operation: str, body: dict[str, Any]
) -> None:
    def at_most(count: int) -> None:
        monkeypatch.setattr(whole_answers, "MAX_AT_ONCE", count)

    async def answer() -> tuple[list[str], dict[str, Any]]:
        found = (await api.ask(operation, ignore_eos=True, **body)).json()
        names = list(found)
        for of_one_answer in ("id", "created"):
            found.pop(of_one_answer)
        return names, found

    at_most(1 << 30)
    at_once = await answer()
    at_most(0)
    assert await answer() == at_once
    assert all(choice["logprobs"] for choice in at_once[1]["choices"])


async def test_a_chat_is_answered_whole_and_streamed_alike(rig: Any, api: Api) -> None:
    revision = await rig.revision(1)
    for asked, served, tier in (
        (None, f"base:{rig.facts.name}", "base"),
        (revision, revision.digest, "stored"),
    ):
        answer = await api.ask("chat", asked, **CHAT)
        assert answer.headers["x-mint-tier"] == tier
        assert answer.status_code == 200, answer.text
        whole = answer.json()
        assert answer.headers["x-mint-revision"] == whole["system_fingerprint"] == served
        assert answer.headers["x-mint-engine"] == "tiny-0"
        assert whole["model"] == ASKED
        events = await api.events("chat", asked, **CHAT)
        text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
        assert text == whole["choices"][0]["message"]["content"] != ""
        assert events[0]["system_fingerprint"] == events[-1]["system_fingerprint"] == served
        assert {event["model"] for event in events} == {ASKED}


async def test_a_chat_from_tokens_is_sampled_from_these_and_not_from_its_messages(rig: Any, api: Api) -> None:
    revision = await rig.revision(1)
    for asked in (None, revision):
        usual = (await api.ask("chat", asked, return_token_ids=True, **CHAT)).json()
        tokens = usual["prompt_token_ids"]
        same = await api.ask("chat_tokens", asked, tokens=tokens, return_token_ids=True, **CHAT)
        assert same.status_code == 200, same.text
        assert same.json()["prompt_token_ids"] == tokens
        assert same.json()["choices"] == usual["choices"]
        other = {**CHAT, "messages": [{"role": "user", "content": "another text"}]}
        split = [*tokens[:-1], 67, 68, tokens[-1]]  # tokens that no text is encoded as, as a model may sample
        found = (await api.ask("chat_tokens", asked, tokens=split, return_token_ids=True, **other)).json()
        assert found["prompt_token_ids"] == split
        assert found["usage"]["prompt_tokens"] == len(split)
    refused = await api.ask("chat_tokens", None, tokens=[1_000_000], **CHAT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "request_refused"), refused.text


async def test_completions_and_echo_are_vllms(rig: Any, api: Api) -> None:
    revision = await rig.revision(1)
    prompts = {"prompt": ["f abcd=", "f ab="], "max_tokens": 4, "temperature": 0, "n": 1}
    whole = (await api.ask("completion", revision, **prompts)).json()
    events = await api.events("completion", revision, **prompts)
    for choice in whole["choices"]:
        texts = [e["choices"][0]["text"] for e in events if e["choices"][0]["index"] == choice["index"]]
        assert "".join(texts) == choice["text"]
    scored = (
        await api.ask("completion", revision, prompt="f abcd=", max_tokens=0, echo=True, logprobs=1)
    ).json()
    assert scored["choices"][0]["logprobs"]["token_logprobs"][0] is None


@pytest.mark.parametrize(
    "structure",
    [
        {"regex": "(" * 120 + "a" + "+)" * 120},
        {"grammar": AMBIGUOUS_RULES},
    ],
    ids=["regex", "grammar"],
)
async def test_an_ambiguous_structure_ends_its_own_request(api: Api, structure: dict[str, str]) -> None:
    # Followed to its end it would take minutes of the engine's loop, and grow with the third power.
    asked = {"prompt": "f abcd=", "max_tokens": 200, "min_tokens": 200, "structured_outputs": structure}
    refused = await api.ask("completion", **asked)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "request_refused"), refused.text
    assert "or not in time" in refused.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_structure_that_compiles_for_too_long_is_refused_and_others_are_answered(
    api: Api, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(structures, "MAX_COUNTED_PROPERTIES", 1000)
    # Compiled by the engine it would take minutes, and every other structure would wait for it.
    slow = {"json": MANY_PROPERTIES}
    asked = {"prompt": "f abcd=", "max_tokens": 4}
    refused, answered = await asyncio.gather(
        api.ask("completion", tenant="slow", stream=stream, structured_outputs=slow, **asked),
        api.ask("completion", tenant="other", structured_outputs={"choice": ["yes", "no"]}, **asked),
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "request_refused"), refused.text
    assert "make the schema, pattern or grammar smaller" in refused.text
    assert answered.status_code == 200, answered.text
    assert answered.json()["choices"][0]["text"] in ("yes", "no")


async def test_a_schema_is_not_checked_by_intersecting_its_patterns(api: Api) -> None:
    # llguidance would, and hold the loader's loop up until its engine is taken for dead.
    hard = {"allOf": [{"type": "string", "pattern": f".*a{'.' * i}b.*"} for i in range(20)]}
    schema = {"type": "object", "properties": {"a": hard, "b": {"type": "integer", "multipleOf": 7}}}
    refused = await api.ask("completion", prompt="f", max_tokens=2, structured_outputs={"json": schema})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "request_refused"), refused.text
    assert "not supported by xgrammar" in refused.text


async def test_schemas_are_kept_to(rig: Any, api: Api) -> None:
    revision = await rig.revision(1)
    spaces = dict.fromkeys(map(str, await rig.client.tokenize(" \n\t")), -100)
    asked = {**CHAT, "max_tokens": 40, "logit_bias": spaces}
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}
    told = (await api.ask("chat", revision, **asked, response_format=schema)).json()
    assert json.loads(told["choices"][0]["message"]["content"])["city"] in CITIES


@pytest.mark.parametrize("said", [{}, {"strict": None}, {"strict": True}])
async def test_a_named_tool_is_called_with_its_arguments(rig: Any, api: Api, said: dict[str, Any]) -> None:
    revision = await rig.revision(1)
    spaces = dict.fromkeys(map(str, await rig.client.tokenize(" \n\t")), -100)
    tool = {"type": "function", "function": {"name": "weather", "parameters": CITY, **said}}
    asked = {**CHAT, "max_tokens": 150, "logit_bias": spaces, "tools": [tool], "tool_choice": NAMED}
    told = (await api.ask("chat", revision, **asked)).json()["choices"][0]["message"]
    assert told.get("tool_calls"), told
    assert json.loads(told["tool_calls"][0]["function"]["arguments"])["city"] in CITIES


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("operation", "body", "field"),
    [
        ("chat", {"messages": []}, "messages"),
        ("chat", {**CHAT, "temperature": -1}, "temperature"),
        ("chat", {**CHAT, "n": 10000}, "n"),
        ("chat", {**CHAT, "logprobs": True, "top_logprobs": 90}, "top_logprobs"),
        (
            "chat",
            {
                **CHAT,
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "strange"}},
                },
            },
            "body",
        ),
        ("completion", {"prompt": [1, 100000]}, "body"),
        ("completion", {"prompt": "x" * 5000}, "input_text"),
        ("completion", {"prompt": "x", "max_tokens": "many"}, "max_tokens"),
        ("completion", {"prompt": ["a", "b", "c"], "logit_bias": {"2000000000": 1}}, "logit_bias"),
        ("completion", {"prompt": LONG, "truncate_prompt_tokens": -1}, "prompt"),
        ("completion", {"prompt": [[5] * 200] * 16, "n": 16, "echo": True, "logprobs": 20}, "echo"),
        ("chat", {"messages": [*CHAT["messages"], DEEP_CALL]}, "body"),
        ("response", {"input": [{**SAID, "content": []}, *CHAT["messages"]]}, "input[0].content"),
    ],
)
async def test_what_vllm_refuses_names_its_field_before_the_first_byte(
    api: Api, operation: str, body: dict[str, Any], field: str, stream: bool
) -> None:
    answer = await api.ask(operation, stream=stream, **body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field


async def test_warnings_of_a_requests_parts_are_not_logged(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "secret", "arguments": "no JSON"}}
    messages = [*CHAT["messages"], {"role": "assistant", "tool_calls": [call] * 3}, *CHAT["messages"]]
    answer = await api.ask("chat", **{**CHAT, "messages": messages})
    assert answer.status_code == 200, answer.text
    assert "secret" not in caplog.text


async def test_responses_and_messages_are_answered_whole_and_streamed(rig: Any, api: Api) -> None:
    revision = await rig.revision(1)
    asked = {"input": "f abcd=", "max_output_tokens": 6, "temperature": 0}
    answer = await api.ask("response", revision, **asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-mint-revision"] == revision.digest
    assert answer.json()["model"] == ASKED
    (item,) = answer.json()["output"]
    said = item["content"][0]["text"]
    events = await api.events("response", revision, **asked)
    assert [events[0]["type"], events[-1]["type"]] == ["response.created", "response.completed"]
    assert events[0]["system_fingerprint"] == revision.digest
    deltas = [each["delta"] for each in events if each["type"] == "response.output_text.delta"]
    assert "".join(deltas) == said != ""
    asked = {"messages": CHAT["messages"], "max_tokens": 6, "temperature": 0}
    told = (await api.ask("message", revision, **asked)).json()
    assert (told["model"], told["role"], told["content"][0]["text"]) == (ASKED, "assistant", said)
    events = await api.events("message", revision, **asked)
    texts = [each["delta"]["text"] for each in events if each["type"] == "content_block_delta"]
    assert ("".join(texts), events[-1]["type"]) == (said, "message_stop")
    assert (events[0]["type"], events[0]["system_fingerprint"]) == ("message_start", revision.digest)


@pytest.mark.parametrize("operation", ["chat", "completion", "response", "message"])
async def test_ids_of_answers_are_those_of_the_call(rig: Any, api: Api, operation: str) -> None:
    asked: dict[str, dict[str, Any]] = {
        "completion": {"prompt": "f abcd=", "max_tokens": 2},
        "response": {"input": "f abcd=", "max_output_tokens": 2},
    }
    body = asked.get(operation, {**CHAT, "max_tokens": 2})
    name = {"completion": "cmpl-r", "response": "resp_r"}.get(operation, "chatcmpl-r")
    assert (await api.ask(operation, None, **body)).json()["id"] == name
    events = await api.events(operation, None, **body)
    named = [event.get("response") or event.get("message") or event for event in events]
    assert {each["id"] for each in named if "id" in each} == {name}


async def test_what_generates_nothing_is_answered_without_an_adapter(rig: Any, api: Api) -> None:
    tokens = list(await rig.client.tokenize("f abcd="))
    told = (await api.ask("tokenize", prompt="f abcd=", add_special_tokens=False)).json()
    assert (told["tokens"], told["count"]) == (tokens, len(tokens))
    assert (await api.ask("detokenize", tokens=tokens)).json()["prompt"] == "f abcd="
    counted = (await api.ask("count_tokens", messages=CHAT["messages"])).json()
    assert counted["input_tokens"] == len(tokens)
    for stream in (False, True):
        rendered = (await api.ask("render_chat", stream=stream, **CHAT)).json()
        assert (rendered["token_ids"], rendered["sampling_params"]["max_tokens"]) == (tokens, 6)
    assert (await api.ask("strange")).status_code == 404
    for operation, body, code in (
        ("tokenize", {"prompt": LONG}, "invalid_field"),
        ("tokenize", {"messages": [{"role": "user", "content": LONG}]}, "invalid_field"),
        ("detokenize", {"tokens": [1] * len(LONG)}, "context_length_exceeded"),
    ):
        refused = await api.ask(operation, **body)
        assert refused.status_code in {400, 422}, refused.text
        assert refused.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("operation", "body"), [("tokenize", {"prompt": "f"}), ("detokenize", {"tokens": [5]})]
)
async def test_what_generates_nothing_waits_for_its_tenants_turn(
    rig: Any, api: Api, operation: str, body: dict[str, Any]
) -> None:
    turns = rig.engine._serving._renders
    async with turns.turn("another"):
        asking = asyncio.create_task(api.ask(operation, **body))
        await _until(lambda: len(turns._queue) == 1)
    assert (await asking).status_code == 200


async def test_a_client_that_leaves_ends_its_request_and_lets_the_adapter_go(rig: Any, api: Api) -> None:
    revision = await rig.revision(1)
    long = {"prompt": ["f abcd=", "f ab="], "max_tokens": 200, "ignore_eos": True, "n": 2}
    for stream in (True, False):
        body = {"model": ASKED, "stream": stream, **long}
        url = "/internal/serve/completion"
        if stream:
            async with api.client.stream("POST", url, json=body, headers=facts_of(revision)) as answer:
                async for _ in answer.aiter_bytes():
                    break
        else:
            asking = asyncio.create_task(api.client.post(url, json=body, headers=facts_of(revision)))
            await _until(lambda: rig.engine._llm.output_processor.get_num_unfinished_requests() > 0)
            asking.cancel()
        await _until(lambda: rig.engine._llm.output_processor.get_num_unfinished_requests() == 0)
        await _until(lambda: rig.tiers.status(revision.digest, tenant_id=TenantId("t")).in_flight == 0)


async def _until(condition: Any) -> None:
    async with asyncio.timeout(90):
        while not condition():
            await asyncio.sleep(0.01)
