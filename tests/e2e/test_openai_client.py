"""The official OpenAI client, unmodified, against a running stack."""

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import openai
import pytest
from e2e.stack import RunningStack
from openai import OpenAI
from pydantic import BaseModel

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MESSAGES = [{"role": "user", "content": "2 4 6 8"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "Weather of a city", "parameters": CITY}
TOOL = {"type": "function", "function": WEATHER}


BASE = Path(__file__).parents[2] / "bases/tiny"
BLANKS = ("Ġ", "Ċ", "ĉ", "č")
"""White space, which an untrained model puts between the parts of JSON without end."""


def no_blanks() -> dict[str, float]:
    vocabulary = json.loads((BASE / "tokenizer.json").read_text())["model"]["vocab"]
    return {str(vocabulary[name]): -100 for name in BLANKS if name in vocabulary}


class City(StrEnum):
    ROME = "Rome"
    OSLO = "Oslo"


class Answer(BaseModel):
    city: City
    sunny: bool


@pytest.fixture(scope="module")
def client(stack: RunningStack) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{stack.http.base_url}/v1", api_key=stack.api_key, max_retries=0) as client:
        yield client


def works(feature: str) -> pytest.MarkDecorator:
    return pytest.mark.client(f"openai {openai.__version__}", feature)


@works("models")
def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert "tiny" in {model.id for model in client.models.list()}
    assert client.models.retrieve("tiny").id == "tiny"


@works("chat")
def test_chat(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=MESSAGES, max_completion_tokens=6, temperature=0, seed=1
    )
    answer = raw.parse()
    assert answer.model == "tiny"
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 6
    assert raw.headers["x-mint-revision"] == answer.system_fingerprint == "base:tiny"


@works("chat, streamed, with usage")
def test_streamed_chat_is_the_whole_one(client: OpenAI) -> None:
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 6, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    parts = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert parts[0].system_fingerprint == "base:tiny"
    usage, told = parts[-1].usage, whole.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (told.prompt_tokens, told.completion_tokens)
    cached = [each.prompt_tokens_details.cached_tokens for each in (usage, told)]
    assert cached[0] >= cached[1] >= 0  # the second request may find what the first one cached


@works("chat: log-probabilities, n, stop, penalties, logit_bias")
def test_chat_with_every_sampling_field(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=4,
        n=2,
        stop=["\n\n"],
        logprobs=True,
        top_logprobs=3,
        presence_penalty=0.5,
        frequency_penalty=0.5,
        logit_bias={"50": -100},
        user="someone",
        metadata={"a": "b"},
        store=False,
    )
    assert len(answer.choices) == 2
    for choice in answer.choices:
        assert all(len(token.top_logprobs) == 3 for token in choice.logprobs.content)
        assert all(token.logprob <= 0 for token in choice.logprobs.content)


@works("chat: vLLM's own fields in extra_body")
def test_chat_with_vllms_fields(client: OpenAI) -> None:
    extra = {"top_k": 5, "min_p": 0.1, "return_token_ids": True, "ignore_eos": True, "min_tokens": 4}
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=4, logprobs=True, extra_body=extra
    )
    assert len(answer.choices[0].token_ids) == 4
    assert answer.prompt_token_ids


@works("chat: a tool that must be called, and its result")
def test_a_tool_is_called_and_answered(client: OpenAI) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    asked = {"model": "tiny", "max_tokens": 100, "tools": [TOOL], "logit_bias": no_blanks()}
    call = client.chat.completions.create(messages=MESSAGES, tool_choice=named, **asked).choices[0].message
    (tool_call,) = call.tool_calls
    assert tool_call.function.name == "weather"
    assert json.loads(tool_call.function.arguments)["city"] in set(City)
    back = {"role": "tool", "tool_call_id": tool_call.id, "content": "sunny"}
    said = call.model_dump() | {"content": ""}  # tiny's chat template joins the contents
    answer = client.chat.completions.create(
        messages=[*MESSAGES, said, back], tool_choice="none", **asked | {"max_tokens": 4}
    )
    assert answer.choices[0].message.content is not None


@works("chat: JSON by schema, and parse() into a class")
def test_structured_outputs_parse(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="tiny", messages=MESSAGES, max_tokens=64, response_format=Answer, logit_bias=no_blanks()
    )
    assert isinstance(answer.choices[0].message.parsed, Answer)


@works("chat: vLLM's structured_outputs (choice, regex)")
@pytest.mark.parametrize(
    ("structure", "found"), [({"choice": ["yes", "no"]}, {"yes", "no"}), ({"regex": "[ab]{2}"}, None)]
)
def test_vllms_structured_outputs(client: OpenAI, structure: dict, found: set[str] | None) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=8, extra_body={"structured_outputs": structure}
    )
    text = answer.choices[0].message.content
    assert text in found if found else len(text) == 2 and set(text) <= set("ab")


@works("completions: text and tokens, several prompts, streamed")
def test_completions(client: OpenAI) -> None:
    asked = {"model": "tiny", "max_tokens": 4, "temperature": 0}
    whole = client.completions.create(prompt=["2 4 6", "a b"], **asked)
    assert [choice.index for choice in whole.choices] == [0, 1]
    parts = list(client.completions.create(prompt=["2 4 6", "a b"], stream=True, **asked))
    for choice in whole.choices:
        text = "".join(each.text for part in parts for each in part.choices if each.index == choice.index)
        assert text == choice.text
    assert client.completions.create(prompt=[5, 6, 7], **asked).choices[0].text


@works("completions: echo with log-probabilities of the prompt")
def test_echo_scores_the_prompt(client: OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=[50, 60, 70], max_tokens=1, echo=True, logprobs=1)
    scores = answer.choices[0].logprobs.token_logprobs
    assert scores[0] is None
    assert len(scores) == 4
    assert all(score <= 0 for score in scores[1:])


@works("errors: a wrong field is named, an unknown model is 404")
def test_errors_are_the_clients_own(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=MESSAGES, n=1000)
    assert refused.value.param == "n"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=3)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=MESSAGES)


@works("chat: fields that no answer depends on are ignored and named")
def test_ignored_fields_are_named(client: OpenAI) -> None:
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 6, "temperature": 0}
    more = {"verbosity": "low", "prediction": {"type": "content", "content": "2 4"}, "metadata": {"a": "b"}}
    raw = client.chat.completions.with_raw_response.create(**asked, **more)
    assert set(raw.headers["x-mint-ignored"].split(", ")) == set(more)
    assert raw.parse().choices[0].message == client.chat.completions.create(**asked).choices[0].message


@works("embeddings: a 404 that says so")
def test_embeddings_are_not_served(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="embeddings are not served"):
        client.embeddings.create(model="tiny", input="a")


@works("responses, chat and completions without a model")
def test_the_only_base_answers_without_a_model(client: OpenAI) -> None:
    for path, body in (
        ("/responses", {"input": "2 4", "max_output_tokens": 2}),
        ("/chat/completions", {"messages": MESSAGES, "max_tokens": 2}),
        ("/completions", {"prompt": "2 4", "max_tokens": 2}),
    ):
        assert client.post(path, body=body, cast_to=dict)["model"] == "tiny"


@works("chat in batches, as vLLM's")
def test_a_batch_is_answered_by_a_choice_each(client: OpenAI) -> None:
    body = {"model": "tiny", "messages": [MESSAGES, MESSAGES], "max_tokens": 4, "temperature": 0}
    answer = client.post("/chat/completions/batch", body=body, cast_to=dict)
    one, other = (choice["message"]["content"] for choice in answer["choices"])
    assert one == other != ""


@works("usage: cached tokens of the prompt")
def test_cached_tokens_are_counted(client: OpenAI) -> None:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "9 7 5 3 " * 20}], "max_tokens": 1}
    counts = [
        client.chat.completions.create(**asked).usage.prompt_tokens_details.cached_tokens for _ in range(2)
    ]
    assert counts[0] == 0 < counts[1]


@works("responses")
def test_responses(client: OpenAI) -> None:
    answer = client.responses.create(model="tiny", input="2 4 6 8", max_output_tokens=6, instructions="a")
    assert answer.model == "tiny"
    assert answer.output_text
    assert answer.usage.output_tokens <= 6


@works("responses, streamed")
def test_responses_stream(client: OpenAI) -> None:
    asked = {"model": "tiny", "input": "2 4 6 8", "max_output_tokens": 6, "temperature": 0}
    whole = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    assert (events[0].type, events[0].system_fingerprint) == ("response.created", "base:tiny")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text
    assert events[-1].type in {"response.completed", "response.incomplete"}


@works("responses: parse() into a class")
def test_responses_parse(client: OpenAI) -> None:
    answer = client.responses.parse(
        model="tiny",
        input="2 4",
        text_format=Answer,
        max_output_tokens=64,
        extra_body={"logit_bias": no_blanks()},
    )
    assert isinstance(answer.output_parsed, Answer)


@works("responses: a tool that must be called")
def test_responses_call_tools(client: OpenAI) -> None:
    tool = {"type": "function", **WEATHER}
    answer = client.responses.create(
        model="tiny",
        input="2 4",
        tools=[tool],
        tool_choice={"type": "function", "name": "weather"},
        max_output_tokens=100,
        extra_body={"logit_bias": no_blanks()},
    )
    (call,) = (item for item in answer.output if item.type == "function_call")
    assert json.loads(call.arguments)["city"] in set(City)


@works("fine_tuning.alpha.graders")
def test_a_base_scores_an_answer_and_so_does_source(client: OpenAI) -> None:
    judge = {
        "type": "score_model",
        "name": "judge",
        "model": "tiny",
        "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
        "sampling_params": {"max_completions_tokens": 16, "seed": 1},
        "range": [-1e9, 1e9],
    }
    found = client.fine_tuning.alpha.graders.run(grader=judge, model_sample="2 4 6 8", item={})
    wrong = {name for name, value in found.metadata.errors.to_dict().items() if value is True}
    assert wrong <= {"model_grader_parse_error"}, "the engine answered, with a number or without"
    again = client.fine_tuning.alpha.graders.run(grader=judge, model_sample="2 4 6 8", item={})
    assert again.reward == found.reward
    source = "def grade(sample, item):\n    return len(sample['output_text']) / item['length']"
    python = {"type": "python", "name": "length", "source": source}
    assert client.fine_tuning.alpha.graders.run(
        grader=python, model_sample="2 4 6 8", item={"length": 14}
    ).reward == pytest.approx(0.5)
