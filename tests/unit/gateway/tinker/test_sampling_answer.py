"""Sample answers on the wire, as the official SDK reads them."""

import json
from dataclasses import replace

import numpy as np
from tinker.proto.response_conv import deserialize_sample_response
from tinker.types import SampleResponse

from mint_common.generation import Likeliest, Sampled, SampledSequence, Sampling
from mint_common.ids import EngineId
from services.gateway.core.tinker.sampling_answer import sample_json, sample_protobuf
from services.gateway.core.tinker.sampling_request import SamplePlan

PLAN = SamplePlan(
    sampling_session_id="s",
    seq_id=0,
    tokens=(7, 8, 9),
    sampling=Sampling(max_new_tokens=4, temperature=1.0),
    copies=1,
    prompt_logprobs=None,
    is_prompt_scored=False,
    scored=2,
)


def ints(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


TABLE = Likeliest(count=2, tokens=ints(0, 0, 8, 1, 9, 0), logprobs=floats(-99999, -99999, -1, -2, -3, -99999))
FIRST = SampledSequence(
    reason="stop",
    tokens=ints(1, 2),
    logprobs=floats(-0.5, -1.5),
    likeliest=Likeliest(count=1, tokens=ints(1, 3), logprobs=floats(-0.5, -1.0)),
)
SECOND = SampledSequence(reason="length", tokens=ints(4), logprobs=floats(-0.25), likeliest=None)


def sampled(*sequences: SampledSequence, scored: bool = False) -> Sampled:
    own = floats(float("nan"), -1.0, -3.0) if scored else None
    return Sampled(
        engine_id=EngineId("e"),
        revision=None,
        sequences=sequences,
        prompt_logprobs=own,
        prompt_likeliest=TABLE if scored else None,
    )


def test_sequences_come_with_their_log_probabilities_and_reasons():
    answer = deserialize_sample_response(sample_protobuf(sampled(FIRST, SECOND), PLAN))
    assert [list(each.tokens) for each in answer.sequences] == [[1, 2], [4]]
    assert [list(each.logprobs or []) for each in answer.sequences] == [[-0.5, -1.5], [-0.25]]
    assert [each.stop_reason for each in answer.sequences] == ["stop", "length"]
    assert answer.sequences[0].topk_logprobs == [[(1, -0.5)], [(3, -1.0)]]
    assert (answer.prompt_logprobs, answer.topk_prompt_logprobs) == (None, None)


def test_the_prompts_scores_come_when_asked_for():
    plan = replace(PLAN, is_prompt_scored=True, prompt_logprobs=2)
    answer = deserialize_sample_response(sample_protobuf(sampled(SECOND, scored=True), plan))
    assert answer.prompt_logprobs == [None, -1.0, -3.0]
    assert answer.topk_prompt_logprobs == [None, [(8, -1.0), (1, -2.0)], [(9, -3.0)]]


def test_only_the_wanted_end_of_the_prompt_is_scored():
    plan = replace(PLAN, is_prompt_scored=True, prompt_logprobs=2, scored=1)
    answer = deserialize_sample_response(sample_protobuf(sampled(SECOND, scored=True), plan))
    assert answer.prompt_logprobs == [None, None, -3.0]
    assert answer.topk_prompt_logprobs == [None, None, [(9, -3.0)]]


def test_one_greedy_sample_is_told_for_each_one_wanted():
    answer = deserialize_sample_response(sample_protobuf(sampled(SECOND), replace(PLAN, copies=3)))
    assert [list(each.tokens) for each in answer.sequences] == [[4]] * 3


def test_clients_of_the_json_era_read_the_same():
    plan = replace(PLAN, is_prompt_scored=True, prompt_logprobs=2, scored=1)
    told = json.loads(sample_json(sampled(FIRST, SECOND, scored=True), plan))
    read: SampleResponse = deserialize_sample_response(
        sample_protobuf(sampled(FIRST, SECOND, scored=True), plan)
    )
    assert told["type"] == "sample"
    assert [each["tokens"] for each in told["sequences"]] == [list(each.tokens) for each in read.sequences]
    assert told["prompt_logprobs"] == read.prompt_logprobs
    assert [row and [tuple(pair) for pair in row] for row in told["topk_prompt_logprobs"]] == (
        read.topk_prompt_logprobs
    )
