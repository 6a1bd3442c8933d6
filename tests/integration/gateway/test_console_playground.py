"""The console's playground: what bases take, and prompts to a base that answers no chats."""

import time
from dataclasses import replace

import pytest

from tests.integration.gateway.console_rig import browser, token_of

pytestmark = pytest.mark.integration

ASKED = {"models": "tiny, playing@1", "prompt": "f ab=", "max_tokens": "4"}


@pytest.fixture(scope="module")
def person(stack):
    stack.make_policy("playing", revisions=1)
    with browser(stack) as client:
        yield client


def test_a_prompt_is_a_chat_for_a_base_with_a_template(stack, person):
    page = person.get("/console/playground?model=tiny")
    assert "512 tokens" in page.text
    assert "no chat template" not in page.text
    answer = person.post("/console/playground", data={**ASKED, "form_token": token_of(page)})
    assert answer.status_code == 200
    assert [call.operation for call in stack.loader.calls[-2:]] == ["chat", "chat"]


def test_a_base_without_a_template_continues_the_prompt(stack, person):
    info = stack.loader.info
    stack.loader.info = replace(info, has_chat_template=False, max_context=256)
    try:
        deadline = time.monotonic() + 30
        while "no chat template" not in (page := person.get("/console/playground?model=tiny")).text:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "256 tokens" in page.text
        assert "playing@1" in page.text.partition("data-plain")[2].partition(">")[0]
        person.post("/console/playground", data={**ASKED, "form_token": token_of(page)})
        calls = stack.loader.calls[-2:]
        assert [call.operation for call in calls] == ["completion", "completion"]
        assert {call.prompt for call in calls} == {ASKED["prompt"]}
    finally:
        stack.loader.info = info
