"""OpenTelemetry's attributes of a serving request."""

import json

import pytest

from mint_common.catalog import Resolution
from mint_common.inference.operations import ApiOperation
from services.gateway.core.openai.genai import (
    answer_attributes,
    engine_attributes,
    request_attributes,
    target_attributes,
)
from services.gateway.core.openai.serving_request import read_request
from tests.testing.factories import REVISION


def test_a_request_names_what_was_asked_for() -> None:
    body = {"model": "copier@prod", "messages": [{"role": "user", "content": "a"}], "max_tokens": 8, "n": 2}
    asked = read_request(ApiOperation.CHAT, json.dumps(body).encode())
    assert request_attributes(asked) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mint",
        "gen_ai.request.model": "copier@prod",
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.max_tokens": 8,
    }


def test_the_bare_base_answers_by_its_name() -> None:
    target = Resolution(base="tiny", policy_id=None, policy_name=None, revision=None)
    assert target_attributes(target) == {"gen_ai.response.model": "tiny"}


def test_a_revision_answers_by_its_policy_and_number() -> None:
    target = Resolution(base="tiny", policy_id="pol_1", policy_name="copier", revision=REVISION)
    assert target_attributes(target) == {
        "gen_ai.response.model": f"copier@{REVISION.number}",
        "mint.revision.digest": REVISION.digest,
    }


def test_only_what_the_engine_said_is_told() -> None:
    assert engine_attributes({"x-mint-tier": "slot"}) == {"mint.tier": "slot"}


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_tokens_and_reasons_are_read_from_the_bytes(separators: tuple[str, str]) -> None:
    lies = '"usage":{"prompt_tokens":999,"completion_tokens":999},"finish_reason":"length"'
    choices = [{"message": {"content": lies}, "finish_reason": "stop"}]
    answer = {"choices": choices, "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    assert answer_attributes(json.dumps(answer, separators=separators).encode()) == {
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ("stop",),
    }


def test_anthropics_names_are_known_too() -> None:
    end = b'{"delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":5,"output_tokens":2}}'
    assert answer_attributes(end) == {
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.response.finish_reasons": ("end_turn",),
    }
