"""Token ids in, token ids out: the contract that RL trainers check of every answer."""

import json
import math
import struct
from base64 import b64decode
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from mint_common.generation import Likeliest, Sampled, SampledSequence, SampleRequest, Sampling
from services.gateway.core.openai.token_generation import (
    generate_answer,
    in_clients_words,
    plan_generate,
    read_generate,
)
from tests.testing.factories import DIGEST, ENGINE, TENANT

PROMPT = [5, 6, 7]


def body(**sampling: object) -> bytes:
    return json.dumps({"model": "m", "token_ids": PROMPT, "sampling_params": sampling}).encode()


def plan(**sampling: object) -> SampleRequest:
    return plan_generate(
        read_generate(body(**sampling)),
        request_id="r",
        tenant_id=TENANT,
        revision=None,
        max_context=64,
    )


def test_what_verifiers_train_client_sends_is_taken() -> None:
    data = json.dumps(
        {
            "model": "m",
            "token_ids": PROMPT,
            "sampling_params": {
                "temperature": 0.7,
                "max_tokens": 8,
                "stop_token_ids": [2, 2],
                "logprobs": 1,
                "skip_special_tokens": False,
                "routed_experts_prompt_start": 2,
            },
            "cache_salt": "3",
            "priority": 0,
        }
    ).encode()
    planned = plan_generate(
        read_generate(data),
        request_id="r",
        tenant_id=TENANT,
        revision=None,
        max_context=64,
    )
    wanted = Sampling(max_new_tokens=8, temperature=0.7, stop_tokens=(2,), logprobs=1)
    assert (planned.sampling, planned.logprobs_mode, planned.routes) == (wanted, "raw", False)


def test_without_a_limit_an_answer_may_take_the_context_that_is_left() -> None:
    assert plan().sampling == Sampling(max_new_tokens=61, temperature=1.0)
    asked = plan(top_k=-1, n=2, seed=3, stop="a", logprobs_mode="processed", return_routed_experts=True)
    assert asked.sampling == Sampling(max_new_tokens=61, temperature=1.0, n=2, seed=3, stop=("a",))
    assert (asked.logprobs_mode, asked.routes) == ("processed", True)


@pytest.mark.parametrize(
    "sampling",
    [
        {"presence_penalty": 1},
        {"repetition_penalty": 1.1},
        {"watermarking": True},
        {"prompt_logprobs": 1},
        {"logprobs_mode": "raw_logits"},
        {"return_routed_experts": "yes"},
        {"extra_args": {"a": 1}},
    ],
)
def test_what_would_not_be_token_exact_is_refused_by_name(sampling: dict[str, object]) -> None:
    with pytest.raises(InvalidField) as refused:
        plan(**sampling)
    assert str(refused.value.field).rpartition(".")[2] == next(iter(sampling))


def test_an_engine_s_complaint_names_the_client_s_field() -> None:
    for found, told in (
        ("tokens", "token_ids"),
        ("sampling.temperature", "sampling_params.temperature"),
        ("sampling.max_new_tokens", "sampling_params.max_tokens"),
        ("routes", "sampling_params.return_routed_experts"),
    ):
        assert in_clients_words(InvalidField(field=found, problem="no")).field == told


def sequence(tokens: list[int], logprobs: list[float], **parts: Any) -> SampledSequence:
    return SampledSequence(
        reason="stop",
        tokens=struct.pack(f"<{len(tokens)}i", *tokens),
        logprobs=struct.pack(f"<{len(logprobs)}f", *logprobs),
        likeliest=None,
        **parts,
    )


def told(data: bytes, *sequences: SampledSequence, layers: int = 0) -> Any:
    sampled = Sampled(
        engine_id=ENGINE, revision=DIGEST, sequences=sequences, prompt_logprobs=None, prompt_likeliest=None
    )
    answer = generate_answer(
        read_generate(data), sampled, request_id="r", routed_layers=layers, named=str(DIGEST)
    )
    return json.loads(answer)


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.floats(-1e4, 0, width=32)), min_size=1, max_size=20))
def test_each_token_has_one_finite_log_probability_under_its_own_id(
    pairs: list[tuple[int, float]],
) -> None:
    tokens, logprobs = [token for token, _ in pairs], [logprob for _, logprob in pairs]
    answer = told(body(logprobs=1), sequence(tokens, logprobs))
    (choice,) = answer["choices"]
    content = choice["logprobs"]["content"]
    assert (choice["token_ids"], choice["finish_reason"]) == (tokens, "stop")
    assert [entry["token"] for entry in content] == [f"token_id:{token}" for token in tokens]
    assert [entry["logprob"] for entry in content] == logprobs
    assert all(math.isfinite(entry["logprob"]) for entry in content)
    assert answer["usage"]["total_tokens"] == len(PROMPT) + len(tokens)
    assert answer["system_fingerprint"] == DIGEST


def test_log_probabilities_come_when_they_are_asked_for_with_the_likeliest() -> None:
    (choice,) = told(body(), sequence([1], [-0.5]))["choices"]
    assert (choice["logprobs"], choice["routed_experts"]) == (None, None)
    likeliest = Likeliest(
        count=2, tokens=struct.pack("<4i", 1, 2, 3, 4), logprobs=struct.pack("<4f", -1, -2, -3, -4)
    )
    scored = SampledSequence(
        reason="length",
        tokens=struct.pack("<2i", 1, 4),
        logprobs=struct.pack("<2f", -1, -4),
        likeliest=likeliest,
    )
    (choice,) = told(body(logprobs=2), scored)["choices"]
    tops = [[one["token_id"] for one in entry["top_logprobs"]] for entry in choice["logprobs"]["content"]]
    assert tops == [[1, 2], [3, 4]]


@pytest.mark.parametrize("start", [0, 2, 99])
def test_routed_experts_begin_where_the_client_has_none_yet(start: int) -> None:
    routes = np.arange(4 * 2 * 3, dtype="<u2").reshape(4, 2, 3)  # 3 + 2 tokens, the last one unread
    data = body(return_routed_experts=True, routed_experts_prompt_start=start)
    (choice,) = told(data, sequence([8, 9], [-1, -1], routes=routes.tobytes()), layers=2)["choices"]
    found = choice["routed_experts"]
    read = np.frombuffer(b64decode(found["data"]), found["dtype"]).reshape(found["shape"])
    assert found["start"] == min(start, 4)
    assert np.array_equal(read, routes[start:])
