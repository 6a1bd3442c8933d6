"""``asample`` from the wire: the official SDK's own request is the oracle."""

import json

import pytest
import tinker
from hypothesis import given
from hypothesis import strategies as st
from tinker.types.sample_request import SampleRequest

from mint_common.errors import InvalidField
from mint_common.json_reading import read_json
from services.gateway.core.tinker.sampling_request import SampleBody, SamplePlan, plan_sample

CONTEXT, VOCABULARY, COMPLETIONS = 64, 100, 100


def plan(**changes) -> SamplePlan:
    params = changes.pop("params", {})
    fields = {
        "prompt": tinker.ModelInput.from_ints(changes.pop("tokens", [5, 9, 12])),
        "sampling_params": tinker.SamplingParams(**params),
        "sampling_session_id": "s",
        "seq_id": 0,
        **changes,
    }
    sent = SampleRequest(**fields).model_dump_json(exclude_none=True)
    return read(sent.encode())


def read(body: bytes) -> SamplePlan:
    return plan_sample(
        read_json(body, SampleBody),
        max_context=CONTEXT,
        vocab_size=VOCABULARY,
        max_completions=COMPLETIONS,
    )


def test_what_the_sdk_sends_is_what_the_engine_is_asked():
    asked = plan(
        num_samples=3,
        params={"max_tokens": 4, "seed": 7, "temperature": 0.5, "top_k": 9, "top_p": 0.8, "stop": ["a", "b"]},
    )
    sampling = asked.sampling
    assert asked.tokens == (5, 9, 12)
    assert (sampling.n, sampling.max_new_tokens, sampling.seed) == (3, 4, 7)
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 9, 0.8)
    assert (sampling.stop, sampling.stop_tokens, sampling.ignore_eos) == (("a", "b"), (), False)
    assert asked.samples == 3


def test_without_a_limit_a_sample_may_fill_the_context():
    assert plan().sampling.max_new_tokens == CONTEXT - 3


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (None, ((), (), False)),
        ([], ((), (), True)),
        ("x", (("x",), (), False)),
        ([3, 4], ((), (3, 4), False)),
    ],
)
def test_stop_may_be_nothing_everything_off_texts_or_tokens(stop, expected):
    sampling = plan(params={"stop": stop}).sampling
    assert (sampling.stop, sampling.stop_tokens, sampling.ignore_eos) == expected


def test_greedy_samples_are_made_once_and_told_as_often_as_wanted():
    asked = plan(num_samples=4, params={"temperature": 0.0})
    assert (asked.sampling.n, asked.copies, asked.samples) == (1, 4, 4)


@pytest.mark.parametrize(
    ("changes", "wanted", "is_prompt_scored", "scored"),
    [
        ({}, None, False, 2),
        ({"prompt_logprobs": True}, 0, True, 2),
        ({"topk_prompt_logprobs": 3}, 3, False, 2),
        ({"prompt_logprobs": True, "topk_prompt_logprobs": 3}, 3, True, 2),
        ({"prompt_logprobs": True, "prompt_logprobs_last_n": 1}, 0, True, 1),
    ],
)
def test_the_prompt_is_scored_as_far_as_asked(changes, wanted, is_prompt_scored, scored):
    asked = plan(**changes)
    assert (asked.prompt_logprobs, asked.is_prompt_scored, asked.scored) == (wanted, is_prompt_scored, scored)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tokens": []}, "prompt"),
        ({"tokens": [1, VOCABULARY]}, "prompt"),
        ({"tokens": [1, -1]}, "prompt"),
        ({"tokens": [1] * CONTEXT}, "prompt"),
        ({"params": {"max_tokens": 0}}, "sampling_params.max_tokens"),
        ({"params": {"max_tokens": CONTEXT}}, "sampling_params.max_tokens"),
        ({"params": {"temperature": -0.1}}, "sampling_params.temperature"),
        ({"params": {"top_p": 0.0}}, "sampling_params.top_p"),
        ({"params": {"top_k": -2}}, "sampling_params.top_k"),
        ({"params": {"seed": -1}}, "sampling_params.seed"),
        ({"params": {"stop": [VOCABULARY]}}, "sampling_params.stop"),
        ({"params": {"stop": [""]}}, "sampling_params.stop"),
        ({"params": {"stop": ["a"] * 17}}, "sampling_params.stop"),
        ({"num_samples": 0}, "num_samples"),
        ({"num_samples": COMPLETIONS + 1}, "num_samples"),
        ({"topk_sample_logprobs": 21}, "topk_sample_logprobs"),
        ({"topk_prompt_logprobs": -1}, "topk_prompt_logprobs"),
        ({"prompt_logprobs_last_n": 1}, "prompt_logprobs_last_n"),
        ({"prompt_logprobs": True, "prompt_logprobs_last_n": 3}, "prompt_logprobs_last_n"),
        ({"prompt_alt_tokens_k": 2}, "prompt_alt_tokens_k"),
        ({"record_stability_info": True}, "record_stability_info"),
        ({"seq_id": -1}, "seq_id"),
        ({"seq_id": None}, "seq_id"),
        ({"sampling_session_id": None}, "sampling_session_id"),
    ],
)
def test_what_cannot_be_sampled_is_refused_by_name(changes, field):
    with pytest.raises(InvalidField) as refused:
        plan(**changes)
    assert refused.value.field == field


def test_images_are_refused_by_their_place():
    chunks = [{"type": "encoded_text", "tokens": [1]}, {"type": "image", "data": "", "format": "png"}]
    body = {"prompt": {"chunks": chunks}, "sampling_params": {}, "sampling_session_id": "s", "seq_id": 1}
    with pytest.raises(InvalidField) as refused:
        read(json.dumps(body).encode())
    assert refused.value.field == "prompt.chunks[1]"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
names = st.sampled_from([*SampleBody.__struct_fields__, "chunks"])


@given(
    body=st.binary(max_size=40)
    | st.dictionaries(names, values, max_size=8).map(lambda each: json.dumps(each).encode())
)
def test_garbage_is_the_senders_fault(body):
    with pytest.raises(InvalidField):
        read(body)
