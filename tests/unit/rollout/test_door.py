"""The model door's values: what it reads, how conversations continue, and how it answers."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from services.rollout.core.door.answers import chat_answer, chat_events, message_of
from services.rollout.core.door.conversation import (
    bridged,
    continued_turn,
    dummy_messages,
    message_digests,
    rendered,
    turn_of,
)
from services.rollout.core.door.requests import ChatRequest, read_chat, read_tokens
from services.rollout.core.trajectories import ModelCall

STOP = 2
USER: dict[str, Any] = {"role": "user", "content": "What is 12 + 30?"}
CALLS = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}]
NAMES = st.sampled_from(
    [
        "role",
        "content",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "text",
        "type",
        "tools",
        "stop",
        "n",
    ]
)
ANSWER = {"role": "assistant", "content": "42"}
SAID = st.text(alphabet="abcx ", min_size=1, max_size=6)


def render(messages: list[dict[str, Any]], *, generates: bool) -> list[int]:
    """Render as ChatML does: a stop token behind each message, and a newline behind that."""
    said = [
        [1, *map(ord, f"{each['role']}\n{each['content']}"), STOP, ord("\n")]  # one token a character
        for each in messages
    ]
    start = [1, *map(ord, "assistant\n")] if generates else []
    return [token for each in [*said, start] for token in each]


def body(**fields: object) -> bytes:
    return json.dumps({"model": "policy", "messages": [USER], **fields}).encode()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_p", 0.9),
        ("top_k", 5),
        ("min_p", 0.1),
        ("n", 2),
        ("stop", ["\n"]),
        ("presence_penalty", 0.5),
        ("logit_bias", {"5": 1}),
        ("response_format", {"type": "json_object"}),
        ("tool_choice", "required"),
        ("top_logprobs", 3),
        ("ignore_eos", True),
        ("messages", []),
        ("max_tokens", -1),
        ("unheard_of", 1),
        ("tokens", [1]),
    ],
)
def test_what_would_change_the_distribution_or_is_wrong_is_refused_by_its_name(
    field: str, value: object
) -> None:
    with pytest.raises(InvalidField) as caught:
        read_chat(body(**{field: value}))
    assert caught.value.field == field


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"role": ["user"]}, "messages[0].role"),
        ({"content": "a"}, "messages[0].role"),
        ({"role": "user", "content": 3}, "messages[0].content"),
        ({"role": "assistant", "tool_calls": [{"function": "add"}]}, "messages[0].tool_calls[0].function"),
        ({"role": "assistant", "tool_calls": "add"}, "messages[0].tool_calls"),
    ],
)
def test_a_message_of_another_form_is_refused_by_its_place(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        read_chat(json.dumps({"model": "policy", "messages": [wrong]}).encode())
    assert caught.value.field == field


@given(
    st.lists(st.dictionaries(NAMES, JSON, max_size=5).map(lambda each: {"role": "tool", **each}), max_size=3),
    st.dictionaries(NAMES, JSON),
)
def test_any_json_is_read_or_refused_by_its_field(messages: list[Any], more: dict[str, Any]) -> None:
    try:
        read = read_chat(json.dumps({**more, "messages": messages}).encode())
    except InvalidField:
        return
    turn = turn_of([*read.messages, {"role": "assistant", "content": ""}], read.template, [1], is_cut=False)
    assert continued_turn([turn], [*read.messages, {"role": "assistant", "content": ""}, USER], read.template)
    assert len(rendered(read.messages)) == len(read.messages)


def test_values_that_change_nothing_and_the_jobs_own_settings_pass() -> None:
    read = read_chat(
        body(top_p=1.0, top_k=-1, n=1, stop=None, presence_penalty=0, temperature=0.2, seed=5, max_tokens=7)
    )
    assert read.limit == 7
    tokens = {"token_ids": [5, 6], "sampling_params": {"temperature": 0.5, "logprobs": 1, "max_tokens": 3}}
    assert read_tokens(json.dumps(tokens).encode()).sampling_params.max_tokens == 3
    for said, stops in (("a", ("a",)), (["a", "b"], ("a", "b")), (None, ()), ([], ())):
        tokens["sampling_params"]["stop"] = said
        assert read_tokens(json.dumps(tokens).encode()).sampling_params.stops == stops
    tokens["sampling_params"]["stop"] = ["a"] * 17
    with pytest.raises(InvalidField) as long:
        read_tokens(json.dumps(tokens).encode())
    assert long.value.field.startswith("sampling_params.stop")
    del tokens["sampling_params"]["stop"]
    tokens["sampling_params"] = {"top_p": 0.5}
    with pytest.raises(InvalidField, match=r"sampling_params\.top_p"):
        read_tokens(json.dumps(tokens).encode())


@given(st.lists(st.tuples(SAID, SAID), min_size=1, max_size=4), SAID, st.booleans())
def test_a_bridge_continues_what_was_sampled_and_renders_the_rest(
    past: list[tuple[str, str]], new: str, is_cut: bool
) -> None:
    messages = [
        message
        for user, answer in past
        for message in ({"role": "user", "content": user}, {"role": "assistant", "content": answer})
    ]
    answer, tail = messages[-1], [{"role": "user", "content": new}]
    sampled = [ord(letter) for letter in answer["content"]] + ([] if is_cut else [STOP])
    prompt = render(messages[:-1], generates=True)
    turn = turn_of([*messages[:-1], answer], {}, [*prompt, *sampled], is_cut=is_cut)
    assert continued_turn([turn], [*messages, *tail], {}) is turn
    dummy = dummy_messages(answer)
    base, full = render(dummy, generates=False), render([*dummy, *tail], generates=True)
    # With one token a character, the whole rendering is what the bridge has to give.
    assert bridged(turn, base, full, stop=STOP) == tuple(render([*messages, *tail], generates=True))


def test_tokens_that_no_encoder_gives_stay_as_they_were_sampled() -> None:
    turn = turn_of([USER, ANSWER], {}, [9, 9, 777, STOP], is_cut=False)
    dummy = dummy_messages(ANSWER)
    tail = [{"role": "user", "content": "why"}]
    base, full = render(dummy, generates=False), render([*dummy, *tail], generates=True)
    found = bridged(turn, base, full, stop=STOP)
    assert found is not None
    assert found[:4] == (9, 9, 777, STOP)
    assert list(found[4:]) == [ord("\n"), *render(tail, generates=True)]


def test_a_template_that_changes_what_came_before_has_no_bridge() -> None:
    turn = turn_of([USER, ANSWER], {}, [9], is_cut=False)
    assert bridged(turn, [1, 2, 3], [1, 5, 3, 4], stop=STOP) is None


def test_only_an_exact_history_with_the_same_tools_is_continued() -> None:
    answer = {"role": "assistant", "content": "42"}
    turn = turn_of([USER, answer], {"tools": [1]}, [9], is_cut=False)
    tail = {"role": "user", "content": "why"}
    assert continued_turn([turn], [USER, answer, tail], {"tools": [1]}) is turn
    for messages, template in (
        ([USER, answer, tail], {}),
        ([USER, answer], {"tools": [1]}),
        ([USER, {**answer, "content": "42 "}, tail], {"tools": [1]}),
        ([USER, answer, {"role": "system", "content": "new"}], {"tools": [1]}),
        ([USER, answer, tail, answer, tail], {"tools": [1]}),
    ):
        assert continued_turn([turn], messages, template) is None


def test_the_forms_in_which_clients_repeat_an_answer_are_one() -> None:
    calls = [{**CALLS[0], "function": {"name": "add", "arguments": '{"b":2,"a":1}'}, "index": 0}]
    (first,) = message_digests([{"role": "assistant", "content": None, "tool_calls": CALLS}])
    assert (first,) == message_digests(
        [{"role": "assistant", "content": "", "tool_calls": calls, "refusal": None, "audio": None}]
    )
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "12 + 30?"}]
    assert message_digests([USER]) == message_digests([{"role": "user", "content": parts}])
    assert (first,) != message_digests([{"role": "assistant", "content": ""}])


def test_a_call_is_named_by_its_place_and_its_result_by_the_call() -> None:
    def conversation(first: str, second: str, *answered: str) -> list[dict[str, Any]]:
        calls = [{"id": name, "function": {"name": "add", "arguments": "{}"}} for name in (first, second)]
        results = [{"role": "tool", "tool_call_id": name, "content": "3"} for name in answered]
        return [USER, {"role": "assistant", "content": "", "tool_calls": calls}, *results]

    said = message_digests(conversation("a", "b", "a", "b"))
    assert said == message_digests(conversation("x", "y", "x", "y"))
    assert said != message_digests(conversation("x", "y", "y", "x"))
    assert said != message_digests(conversation("x", "y", "x", "z"))


def test_a_stream_says_what_the_whole_answer_says() -> None:
    call = ModelCall(prompt=(1, 5), completion=(6, 7, 2), logprobs=(-1.0, -0.5, -0.1), text="<call>")
    request = ChatRequest(messages=[USER], model="policy", return_token_ids=True)
    message = message_of(call, {"message": {"content": None, "tool_calls": CALLS}})
    answer = chat_answer(request, call, message, None, name="req_1", created=5)
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert (answer["prompt_token_ids"], answer["choices"][0]["token_ids"]) == ([1, 5], [6, 7, 2])
    events = b"".join(chat_events(answer, with_usage=True)).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    first, end, usage = (json.loads(event.removeprefix(b"data: ")) for event in events[:-2])
    assert first["choices"][0]["delta"]["tool_calls"] == [{"index": 0, **CALLS[0]}]
    assert end["choices"][0]["finish_reason"] == "tool_calls"
    assert usage["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


def test_an_answer_without_calls_is_its_plain_text() -> None:
    call = ModelCall(prompt=(1,), completion=(6, 2), logprobs=(-1.0, -0.1), text="hi")
    read = {"message": {"content": "hi<|special|>", "tool_calls": []}}
    assert message_of(call, read) == {"role": "assistant", "content": "hi"}
