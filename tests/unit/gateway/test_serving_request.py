"""The few fields of an inference request that the gateway reads."""

import json

import pytest

from mint_common.errors import InvalidField
from mint_common.inference.operations import ApiOperation
from services.gateway.core.openai.serving_request import ServingRequest, read_request

CHAT = ApiOperation.CHAT
COMPLETION = ApiOperation.COMPLETION


def read(operation: ApiOperation, **fields: object) -> ServingRequest:
    return read_request(operation, json.dumps({"model": "m", **fields}).encode())


def refused(operation: ApiOperation, **fields: object) -> str:
    with pytest.raises(InvalidField) as caught:
        read(operation, **fields)
    return str(caught.value.field)


@pytest.mark.parametrize("operation", ApiOperation)
def test_only_anthropics_requests_need_a_model(operation: ApiOperation) -> None:
    assert read(operation).model == "m"
    assert refused(operation, model=5) == "model"
    if operation.is_anthropic:
        assert refused(operation, model=None) == refused(operation, model="") == "model"
        with pytest.raises(InvalidField, match="'model': is required"):
            read_request(operation, b"{}")
    else:
        assert read(operation, model=None).model == read_request(operation, b"{}").model == ""


def test_n_counts_over_all_prompts() -> None:
    assert read(COMPLETION, prompt=["a"] * 16, n=16).choices == 256
    assert refused(COMPLETION, prompt=["a"] * 16, n=17) == "n"
    assert refused(COMPLETION, prompt=["a"] * 257) == "prompt"
    assert refused(COMPLETION, prompt=[]) == "prompt"
    assert read(COMPLETION, prompt=[1] * 300).choices == read(COMPLETION, prompt="a").choices == 1
    assert read(COMPLETION, prompt=[[1], [2, 3]]).choices == 2


def test_each_conversation_of_a_batch_counts() -> None:
    batch = ApiOperation.CHAT_BATCH
    assert read(batch, messages=[[], [], []]).choices == 3
    assert read(batch, messages="x").choices == read(batch, messages=[]).choices == 1
    assert refused(batch, messages=[[]] * 257) == "messages"


def test_the_answers_size_is_read() -> None:
    asked = read(CHAT, max_completion_tokens=5, max_tokens=9, logprobs=True, top_logprobs=3, n=2, stream=True)
    assert (asked.max_tokens, asked.likeliest, asked.choices, asked.stream) == (5, 3, 2, True)
    assert read(CHAT, max_tokens=None).max_tokens is None
    assert read(CHAT, prompt_logprobs=2).likeliest == 2
    for operation in (CHAT, COMPLETION):
        assert read(operation, logprob_token_ids=[1] * 128).likeliest == 128
    assert read(COMPLETION).max_tokens == 16
    assert read(COMPLETION, logprobs=0).likeliest == 0
    assert read(ApiOperation.RESPONSE, top_logprobs=4, max_output_tokens=7).likeliest == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 257),
        ("n", 0),
        ("n", "2"),
        ("n", True),
        ("n", 1.0),
        ("top_logprobs", 21),
        ("top_logprobs", -1),
        ("prompt_logprobs", -1),
        ("logprobs", 21),
        ("logprobs", "true"),
        ("logprob_token_ids", [1] * 129),
        ("max_tokens", 2**31),
        ("max_tokens", "5"),
        ("stream", 1),
    ],
)
def test_a_value_that_vllm_might_read_otherwise_is_refused(name: str, value: object) -> None:
    assert refused(CHAT, **{name: value}) == name
