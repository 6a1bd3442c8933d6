"""The official `openai` client against the gateway."""

import json

import httpx
import openai
import pytest
from openai import OpenAI

pytestmark = pytest.mark.integration


@pytest.fixture
def client(stack, counter) -> OpenAI:
    with OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0) as client:
        yield client


def _digest(counter_policy, stack, number: int) -> str:
    with stack.client() as mint:
        return mint.get(f"/policies/{counter_policy.name}/revisions/{number}").json()["digest"]


def _registry_calls(stack) -> float:
    """Return how many requests about policies and bases the registry has answered."""
    lines = httpx.get(f"{stack.registry_url}/metrics", trust_env=False).text.splitlines()
    counts = [line for line in lines if line.startswith("mint_registry_http_request_seconds_count")]
    return sum(float(line.split()[-1]) for line in counts if "/tenants/" in line or "/bases" in line)


def test_models_are_bases_policies_aliases_and_revisions(client, stack, counter):
    stack.make_policy("empty")
    stack.make_policy("many", revisions=3)
    with stack.client() as mint:
        for policy in ("counter", "many"):
            mint.put(f"/policies/{policy}/aliases/listed", json={"revision": 1}).raise_for_status()
    names = [model.id for model in client.models.list()]
    before = _registry_calls(stack)
    client.models.list()
    assert _registry_calls(stack) - before == 2, "however many policies there are"
    assert {"tiny", "many", "many@listed", "many@1", "many@3"} <= set(names)
    assert "many@2" not in names, "an old revision that no alias points at is served, not listed"
    assert "empty" not in names
    assert client.models.retrieve("counter@listed").id == "counter@listed"
    assert client.models.retrieve(f"counter@{counter.latest.digest}").id.endswith(counter.latest.digest)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("counter@nobody")


@pytest.mark.parametrize("name", ["tiny", "counter", "counter@2", "counter@pinned", "digest"])
def test_every_kind_of_name_is_answered_and_proven(client, stack, counter, name):
    with stack.client() as mint:
        mint.put("/policies/counter/aliases/pinned", json={"revision": 1}).raise_for_status()
    second = _digest(counter, stack, 2)
    expected = {
        "tiny": ("base", "base:tiny"),
        "counter": ("r3", counter.latest.digest),
        "counter@2": ("r2", second),
        "counter@pinned": ("r1", _digest(counter, stack, 1)),
        "digest": ("r2", second),
    }
    who, served = expected[name]
    model = f"counter@{second}" if name == "digest" else name
    raw = client.completions.with_raw_response.create(model=model, prompt="hi", max_tokens=100)
    answer = raw.parse()
    assert answer.choices[0].text == f"{who}/0/hi"
    assert answer.system_fingerprint == raw.headers["x-mint-revision"] == served
    assert answer.model == model
    assert answer.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}) == {
        "prompt_tokens": 2,
        "completion_tokens": len(f"{who}/0/hi"),
        "total_tokens": 2 + len(f"{who}/0/hi"),
    }


def test_the_only_base_answers_a_request_without_a_model(client, stack):
    answer = client.post("/completions", body={"prompt": "hi"}, cast_to=dict)
    assert (answer["model"], answer["choices"][0]["text"]) == ("tiny", "base/0/hi")
    told = httpx.post(
        f"{stack.url}/v1/messages",
        json={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
        headers={"x-api-key": stack.key},
    )
    assert (told.status_code, told.json()["error"]["message"]) == (400, "Field 'model': is required")


def test_prod_wins_over_the_newest_revision(stack, client):
    stack.make_policy("prodded", revisions=2)
    with stack.client() as mint:
        mint.put("/policies/prodded/aliases/prod", json={"revision": 1}).raise_for_status()
    assert client.completions.create(model="prodded", prompt="x").choices[0].text == "r1/0/x"


def test_the_body_is_handed_on_as_it_came_and_what_else_a_client_says_is_not(stack, counter):
    body = b'{"prompt": [104, 105],  "model":"counter@1", "min_p": 0.25, "max_tokens":3}'
    forged = {"x-mint-call": "{}", "x-mint-tenant": "other", "x-mint-revision": "sha256:" + "0" * 64}
    headers = {"authorization": f"Bearer {stack.key}", "content-type": "application/json", **forged}
    answer = httpx.post(f"{stack.url}/v1/completions", content=body, headers=headers)
    call = stack.loader.calls[-1]
    assert answer.json()["choices"][0]["text"] == "r1/"
    assert (answer.headers["x-mint-engine"], answer.headers["x-mint-tier"]) == ("scripted", "slot")
    assert call.body == json.loads(body)
    assert call.facts.tenant_id == stack.tenant_id
    assert (call.facts.model, call.facts.revision.number) == ("counter@1", 1)


def test_length_and_stop_end_a_completion(client):
    short = client.completions.create(model="tiny", prompt="hi", max_tokens=3).choices[0]
    assert (short.text, short.finish_reason) == ("bas", "length")
    stopped = client.completions.create(model="tiny", prompt="hi", stop=["/0", "never"]).choices[0]
    assert (stopped.text, stopped.finish_reason) == ("base", "stop")


def test_a_streamed_completion_is_proven(client, counter):
    parts = list(client.completions.create(model="counter", prompt="a", stream=True, n=2))
    texts = {0: "", 1: ""}
    for part in parts:
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert texts == {0: "r3/0/a", 1: "r3/1/a"}
    assert {part.system_fingerprint for part in parts} == {counter.latest.digest}


def test_stream_on_the_wire_is_what_the_openai_api_sends(stack, counter):
    body = {"model": "counter", "prompt": "a", "stream": True}
    headers = {"x-api-key": stack.key}
    with httpx.stream("POST", f"{stack.url}/v1/completions", json=body, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-mint-revision"] == counter.latest.digest
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    parts = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in parts[0]


def test_chat_whole_and_streamed_say_the_same(client, counter):
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
    ]
    whole = client.chat.completions.create(model="counter", messages=messages)
    assert whole.choices[0].message.content == "r3/0/s|hi"
    assert whole.choices[0].message.role == "assistant"
    assert whole.system_fingerprint == counter.latest.digest
    parts = list(client.chat.completions.create(model="counter", messages=messages, stream=True, n=2))
    assert parts[0].choices[0].delta.role == "assistant"
    for index in (0, 1):
        mine = [c for part in parts for c in part.choices if c.index == index]
        assert "".join(c.delta.content or "" for c in mine) == f"r3/{index}/s|hi"
        assert mine[-1].finish_reason == "stop"


@pytest.mark.parametrize("model", ["nobody", "counter@nobody", "counter@99", "counter@sha256:" + "0" * 64])
def test_unknown_models_are_not_found_by_name(client, model):
    with pytest.raises(openai.NotFoundError) as refused:
        client.completions.create(model=model, prompt="x")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert model.partition("@")[2] in str(refused.value)


def test_a_policy_without_a_revision_never_answers_as_its_base(stack, client):
    stack.make_policy("unborn")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="unborn", prompt="x")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 10_000}, "n"),
        ({"prompt": 5}, "prompt"),
        ({"extra_body": {"grammar": "x"}}, "grammar"),
        ({"extra_body": {"cache_salt": "another tenant's"}}, "cache_salt"),
        ({"extra_body": {"priority": -5}}, "priority"),
        ({"max_tokens": -1}, "max_tokens"),
    ],
)
def test_bad_fields_are_bad_requests_by_name(client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**{"model": "tiny", "prompt": "x", **fields})
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


def test_a_full_cold_queue_is_a_rate_limit_with_the_time_to_wait(client):
    with pytest.raises(openai.RateLimitError) as refused:
        client.completions.create(model="counter", prompt="OVERLOAD")
    assert refused.value.response.headers["retry-after"] == "7"


def test_a_failure_before_the_end_is_an_error_whole_and_streamed(client):
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model="tiny", prompt="BREAK")
    parts = client.completions.create(model="tiny", prompt="BREAK", stream=True)
    with pytest.raises(openai.APIError, match="it broke"):
        list(parts)


def test_an_answer_of_another_revision_is_withheld(client):
    with pytest.raises(openai.InternalServerError) as refused:
        client.completions.create(model="counter", prompt="LIE")
    assert refused.value.code == "wrong_revision"


def test_wrong_and_missing_keys(stack):
    with OpenAI(base_url=f"{stack.url}/v1", api_key="tml-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.models.list()
        assert refused.value.code == "invalid_api_key"
    answer = httpx.post(f"{stack.url}/v1/completions", json={"bad": "body"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_another_tenants_policy_is_not_found(stack, counter):
    with OpenAI(base_url=f"{stack.url}/v1", api_key=stack.other_key, max_retries=0) as stranger:
        names = [model.id for model in stranger.models.list()]
        assert "tiny" in names
        assert not [name for name in names if name.startswith("counter")]
        for model in ("counter", "counter@1", f"counter@{counter.latest.digest}"):
            with pytest.raises(openai.NotFoundError):
                stranger.completions.create(model=model, prompt="x")


def test_unknown_routes_have_the_openai_shape(stack):
    headers = {"authorization": f"Bearer {stack.key}"}
    answer = httpx.get(f"{stack.url}/v1/embeddings", headers=headers)
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    ["{", '{"model": "tiny", "prompt": "x", "max_tokens": 1, "max_tokens": 1}', '\ufeff{"model": "tiny"}'],
)
def test_a_body_that_parsers_could_read_differently_is_a_bad_request(stack, body):
    headers = {"authorization": f"Bearer {stack.key}", "content-type": "application/json"}
    answer = httpx.post(f"{stack.url}/v1/completions", content=body.encode(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "body")
