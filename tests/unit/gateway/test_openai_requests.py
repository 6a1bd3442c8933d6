"""OpenAI requests: what is accepted, what is refused by name, and what the engine is asked for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from mint_common.errors import InvalidField
from services.gateway.core.openai.requests import ChatBody, CompletionBody
from services.gateway.core.openai.sampling import (
    ContextExceeded,
    chat_input,
    chat_limit,
    chat_logprobs_wanted,
    check_supported,
    completion_inputs,
    completion_limit,
    completion_logprobs_wanted,
    plan_sampling,
    room_for,
)

COMPLETION = TypeAdapter(CompletionBody)
CHAT = TypeAdapter(ChatBody)


def _completion(**fields) -> CompletionBody:
    return COMPLETION.validate_python({"model": "m", "prompt": "hi", **fields})


def _chat(**fields) -> ChatBody:
    return CHAT.validate_python({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


def _plan(body, prompts=1):
    return plan_sampling(body, max_new_tokens=4, logprobs=None, prompts=prompts)


@given(st.text(min_size=1))
def test_one_text_is_one_prompt(text):
    (item,) = completion_inputs(_completion(prompt=text))
    assert (item.text, item.tokens) == (text, None)


@given(st.lists(st.text(min_size=1), min_size=1))
def test_texts_stay_texts_even_when_they_look_like_numbers(texts):
    assert [item.text for item in completion_inputs(_completion(prompt=texts))] == texts


def test_digits_in_a_list_are_text():
    assert [item.text for item in completion_inputs(_completion(prompt=["1", "2"]))] == ["1", "2"]


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_token_ids_are_one_prompt(tokens):
    (item,) = completion_inputs(_completion(prompt=tokens))
    assert item.tokens == tuple(tokens)


@given(st.lists(st.lists(st.integers(0, 10**6), min_size=1), min_size=1))
def test_lists_of_token_ids_are_prompts(prompts):
    items = completion_inputs(_completion(prompt=prompts))
    assert [item.tokens for item in items] == [tuple(tokens) for tokens in prompts]


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], ["a", ""], [-1]])
def test_an_empty_or_impossible_prompt_is_refused(prompt):
    with pytest.raises(InvalidField) as refused:
        completion_inputs(_completion(prompt=prompt))
    assert refused.value.field == "prompt"


def test_text_parts_are_joined_and_developer_is_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}]
    messages = chat_input(_chat(messages=turns)).messages
    assert [(m.role, m.content) for m in messages] == [("system", "be kind"), ("user", "ab")]


def test_an_answer_of_ours_can_be_sent_back():
    answer = {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None, "annotations": None}
    assert chat_input(_chat(messages=[answer])).messages[0].content == "x"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"store": True}, "store"),
    ],
)
def test_chat_fields_without_effect_are_refused_by_name(fields, field):
    with pytest.raises(InvalidField) as refused:
        check_supported(_chat(**fields))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("fields", "field"), [({"echo": True}, "echo"), ({"best_of": 2}, "best_of"), ({"suffix": "x"}, "suffix")]
)
def test_completion_fields_without_effect_are_refused_by_name(fields, field):
    with pytest.raises(InvalidField) as refused:
        check_supported(_completion(**fields))
    assert refused.value.field == field


def test_neutral_values_pass():
    check_supported(_completion(echo=False, best_of=1, logit_bias={}, presence_penalty=0.0, user="u"))
    check_supported(_chat(tools=[], response_format={"type": "text"}, tool_choice="none", user="u"))


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError):
        _completion(grammar="x")
    with pytest.raises(ValidationError):
        _chat(messages=[{"role": "tool", "content": "x"}])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"n": 0}, "n"),
        ({"n": 257}, "n"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"seed": 2**64}, "seed"),
        ({"seed": -1}, "seed"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_sampling_out_of_bounds_is_refused_by_name(fields, field):
    with pytest.raises(InvalidField) as refused:
        _plan(_completion(**fields))
    assert refused.value.field == field


def test_prompts_times_n_is_bounded():
    _plan(_completion(n=16), prompts=16)
    with pytest.raises(InvalidField):
        _plan(_completion(n=16), prompts=17)


@given(
    temperature=st.floats(0, 2),
    top_p=st.floats(min_value=0, max_value=1, exclude_min=True),
    n=st.integers(1, 256),
    seed=st.none() | st.integers(0, 2**62),
    stop=st.lists(st.text(min_size=1), max_size=16),
)
def test_sampling_says_exactly_what_the_request_said(temperature, top_p, n, seed, stop):
    sampling = _plan(_completion(temperature=temperature, top_p=top_p, n=n, seed=seed, stop=stop))
    assert (sampling.temperature, sampling.top_p, sampling.n, sampling.seed) == (temperature, top_p, n, seed)
    assert (sampling.stop, sampling.max_new_tokens, sampling.top_k) == (tuple(stop), 4, 0)


def test_limits_follow_the_openai_defaults():
    assert completion_limit(_completion()) == 16
    assert completion_limit(_completion(max_tokens=3)) == 3
    assert chat_limit(_chat()) is None
    assert chat_limit(_chat(max_tokens=3)) == 3
    assert chat_limit(_chat(max_tokens=3, max_completion_tokens=5)) == 5
    with pytest.raises(InvalidField):
        completion_limit(_completion(max_tokens=0))
    with pytest.raises(InvalidField) as refused:
        chat_limit(_chat(max_completion_tokens=0))
    assert refused.value.field == "max_completion_tokens"


def test_logprobs_wanted():
    assert completion_logprobs_wanted(_completion()) is None
    assert completion_logprobs_wanted(_completion(logprobs=0)) == 0
    assert chat_logprobs_wanted(_chat()) is None
    assert chat_logprobs_wanted(_chat(logprobs=True)) == 0
    assert chat_logprobs_wanted(_chat(logprobs=True, top_logprobs=3)) == 3
    for wanted in (lambda: completion_logprobs_wanted(_completion(logprobs=21)),):
        with pytest.raises(InvalidField):
            wanted()
    with pytest.raises(InvalidField) as refused:
        chat_logprobs_wanted(_chat(top_logprobs=3))
    assert refused.value.field == "top_logprobs"


@given(prompt=st.integers(0, 100), context=st.integers(1, 100))
def test_an_answer_without_limit_fills_the_context(prompt, context):
    if prompt < context:
        assert prompt + room_for(prompt, max_context=context) == context
    else:
        with pytest.raises(ContextExceeded):
            room_for(prompt, max_context=context)
