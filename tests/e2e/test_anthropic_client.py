"""The official Anthropic client, unmodified, against a running stack."""

from collections.abc import Iterator

import anthropic
import pytest
from anthropic import Anthropic
from e2e.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MESSAGES = [{"role": "user", "content": "2 4 6 8"}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "Weather of a city", "input_schema": CITY, "strict": True}
TRIES = 30
"""An untrained model puts white space without end between the parts of JSON, and this API has no bias."""


@pytest.fixture(scope="module")
def client(stack: RunningStack) -> Iterator[Anthropic]:
    with Anthropic(base_url=str(stack.http.base_url), api_key=stack.api_key, max_retries=0) as client:
        yield client


def works(feature: str) -> pytest.MarkDecorator:
    return pytest.mark.client(f"anthropic {anthropic.__version__}", feature)


@works("messages")
def test_messages(client: Anthropic) -> None:
    raw = client.messages.with_raw_response.create(
        model="tiny", messages=MESSAGES, max_tokens=6, system="a", metadata={"user_id": "b"}
    )
    answer = raw.parse()
    assert raw.headers["x-mint-revision"] == "base:tiny"
    assert answer.model == "tiny"
    assert answer.content[0].type == "text"
    assert 0 < answer.usage.output_tokens <= 6
    assert answer.stop_reason in {"max_tokens", "end_turn"}


@works("messages, streamed")
def test_streamed_messages_are_the_whole_one(client: Anthropic) -> None:
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 6, "extra_body": {"temperature": 0}}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert text == whole.content[0].text
    assert last.stop_reason == whole.stop_reason
    assert last.usage.output_tokens == whole.usage.output_tokens
    first, *_ = client.messages.create(**asked, stream=True)
    assert (first.type, first.system_fingerprint) == ("message_start", "base:tiny")


@works("messages: a tool that must be called, and its result")
def test_a_tool_is_called_and_answered(client: Anthropic) -> None:
    asked = {"model": "tiny", "max_tokens": 200, "tools": [TOOL], "extra_body": {"temperature": 2}}
    forced = {"type": "tool", "name": "weather"}
    for _ in range(TRIES):
        call = client.messages.create(messages=MESSAGES, tool_choice=forced, **asked)
        if call.stop_reason == "tool_use":
            break
    (used,) = (block for block in call.content if block.type == "tool_use")
    assert used.name == "weather"
    assert used.input["city"] in {"Rome", "Oslo"}
    assert call.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": used.id, "content": [{"type": "text", "text": "sunny"}]}
    said = {"role": "assistant", "content": [{"type": "text", "text": "b"}, used.model_dump()]}
    answer = client.messages.create(
        messages=[*MESSAGES, said, {"role": "user", "content": [result]}], **asked | {"max_tokens": 4}
    )
    assert answer.content


@works("tool_runner: over a thread, which is declined, then with the whole conversation")
def test_the_tool_runner_goes_on_without_a_thread(client: Anthropic) -> None:
    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Weather of a city."""
        return f"sunny in {city}"

    with pytest.raises(anthropic.BadRequestError) as refused:
        client.beta.messages.create(
            model="tiny",
            messages=MESSAGES,
            max_tokens=6,
            thread={"type": "create"},
            betas=["message-threads"],
        )
    assert refused.value.body["error"]["details"]["error_code"] == "thread_unsupported_request"
    runner = client.beta.messages.tool_runner(
        model="tiny", messages=MESSAGES, max_tokens=6, tools=[weather], context_management={"edits": []}
    )
    assert runner.until_done().usage.output_tokens > 0


@works("beta messages: fields of a beta are ignored and named")
def test_fields_of_a_beta_are_ignored(client: Anthropic) -> None:
    raw = client.beta.messages.with_raw_response.create(
        model="tiny", messages=MESSAGES, max_tokens=6, context_management={"edits": []}, speed="standard"
    )
    assert raw.headers["x-mint-ignored"] == "context_management, speed"
    assert raw.parse().content


@works("messages: tokens counted")
def test_tokens_are_counted(client: Anthropic) -> None:
    counted = client.messages.count_tokens(model="tiny", messages=MESSAGES)
    asked = client.messages.create(model="tiny", messages=MESSAGES, max_tokens=1)
    assert counted.input_tokens == asked.usage.input_tokens


@works("errors: a wrong field is named, an unknown model is 404")
def test_errors_are_the_clients_own(client: Anthropic) -> None:
    picture = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:1/a.png"}}
    with pytest.raises(anthropic.BadRequestError, match="content"):
        client.messages.create(model="tiny", messages=[{"role": "user", "content": [picture]}], max_tokens=1)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="nobody", messages=MESSAGES, max_tokens=1)
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="tml-nobody").messages.create(
            model="tiny", messages=MESSAGES, max_tokens=1
        )
