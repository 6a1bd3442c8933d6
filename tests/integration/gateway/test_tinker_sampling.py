"""Sampling through the official SDK: what is asked of the engine, and what its client is told."""

from collections.abc import Iterator

import httpx
import pytest
import tinker
from tinker import types

from tests.integration.gateway.scripted_loader import LOGPROB

pytestmark = [
    pytest.mark.integration,
    # The SDK leaves its sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PLAIN = types.SamplingParams(max_tokens=64)


@pytest.fixture(scope="module")
def service(stack) -> Iterator[tinker.ServiceClient]:
    client = tinker.ServiceClient(base_url=stack.url, api_key=stack.key)
    yield client
    client.close("success").result()


def _prompt(text: str) -> types.ModelInput:
    return types.ModelInput.from_ints(list(text.encode()))


def _text(sequence) -> str:
    return bytes(sequence.tokens).decode()


def _open(api: httpx.Client, **wish: object) -> str:
    session_id = api.post("/create_session", json={}).json()["session_id"]
    body = {"session_id": session_id, "sampling_session_seq_id": 0, "base_model": "tiny", **wish}
    answer = api.post("/create_sampling_session", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["sampling_session_id"])


def _sample(sampling_session_id: str, text: str = "hello", **changes: object) -> dict[str, object]:
    return {
        "sampling_session_id": sampling_session_id,
        "seq_id": 0,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(text.encode())}]},
        "sampling_params": {"max_tokens": 64},
        **changes,
    }


def test_a_base_a_policy_and_its_name_in_either_spelling_are_sampled(service, counter):
    for name, who in (("tiny", "base"), ("mint/tiny", "base"), ("counter", "r3"), ("counter@1", "r1")):
        sampler = service.create_sampling_client(base_model=name).result()
        sampled = sampler.sample(_prompt("hi"), 2, PLAIN).result()
        assert [_text(each) for each in sampled.sequences] == [f"{who}/0/hi", f"{who}/1/hi"]
        assert list(sampled.sequences[0].logprobs) == [LOGPROB] * len(f"{who}/0/hi")


def test_a_sampler_stays_on_its_revision_when_a_newer_one_comes(stack, service):
    stack.make_policy("pinned", revisions=1)
    sampler = service.create_sampling_client(base_model="pinned").result()
    stack.publish_more("pinned", 1)
    assert _text(sampler.sample(_prompt("x"), 1, PLAIN).result().sequences[0]) == "r1/0/x"
    rest = tinker.RestClient(base_url=stack.url, api_key=stack.key)
    told = rest.get_sampler(sampler._sampling_session_id).result()
    assert told.base_model == "mint/tiny"


def test_prompts_are_scored(service):
    sampler = service.create_sampling_client(base_model="tiny").result()
    assert sampler.compute_logprobs(_prompt("abc")).result() == [None, LOGPROB, LOGPROB]


def test_512_samples_at_once_are_all_right(service):
    sampler = service.create_sampling_client(base_model="tiny").result()
    futures = [sampler.sample(_prompt(f"n{at}"), 1, PLAIN) for at in range(512)]
    assert [_text(future.result().sequences[0]) for future in futures] == [
        f"base/0/n{at}" for at in range(512)
    ]


def test_a_full_engine_is_waited_for(stack, service):
    sampler = service.create_sampling_client(base_model="tiny").result()
    stack.loader.refusals = 3
    assert _text(sampler.sample(_prompt("OVERLOAD"), 1, PLAIN).result().sequences[0]) == "base/0/OVERLOAD"
    assert stack.loader.refusals == 0


def test_a_cold_adapter_is_told_while_its_sample_waits(stack, counter):
    stack.loader.may_load.clear()
    try:
        with stack.tinker_api() as api:
            opened = _open(api, base_model="counter@2")
            request_id = api.post("/asample", json=_sample(opened, "COLD")).json()["request_id"]
            sdk = {"x-stainless-package-version": "0.38.0"}
            told = api.post("/retrieve_future", json={"request_id": request_id}, headers=sdk)
            assert told.status_code == 408
            assert told.json()["queue_state"] == "paused_capacity"
            assert "behind 2 others" in told.json()["queue_state_reason"]
            stack.loader.may_load.set()
            told = api.post("/retrieve_future", json={"request_id": request_id}, headers=sdk)
            assert told.status_code == 200
            assert bytes(told.json()["sequences"][0]["tokens"]).decode() == "r2/0/COLD"
    finally:
        stack.loader.may_load.set()


def test_an_answer_of_another_revision_is_never_told(stack, counter):
    with stack.tinker_api() as api:
        opened = _open(api, base_model="counter@2")
        request_id = api.post("/asample", json=_sample(opened, "LIE")).json()["request_id"]
        told = api.post("/retrieve_future", json={"request_id": request_id}).json()
        assert told["category"] == "server"


def test_a_repeated_submission_is_the_same_sample_and_runs_once(stack):
    with stack.tinker_api() as api:
        opened = _open(api)
        answers = [api.post("/asample", json=_sample(opened, "once", num_samples=2)).json() for _ in range(3)]
        assert answers[0] == answers[1] == answers[2]
        assert len(answers[0]["sample_sequence_ids"]) == 2
        assert api.post("/retrieve_future", json={"request_id": answers[0]["request_id"]}).status_code == 200
        own = answers[0]["request_id"].partition(".")[0]  # after the dot stands the gateway that has it
        assert sum(each.request_id == own for each in stack.loader.samples) == 1
        assert api.post("/asample", json=_sample(opened, "other", num_samples=2)).status_code == 422


def test_nobody_sees_anothers_sampler_or_sample(stack):
    with stack.tinker_api() as api, stack.tinker_api(key=stack.other_key) as other:
        opened = _open(api)
        request_id = api.post("/asample", json=_sample(opened)).json()["request_id"]
        assert other.get(f"/samplers/{opened}").status_code == 404
        assert other.post("/asample", json=_sample(opened)).status_code == 404
        assert other.post("/retrieve_future", json={"request_id": request_id}).status_code == 410
        assert api.get(f"/samplers/{opened}").json()["base_model"] == "tiny"


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({"sampling_session_id": "nonsense"}, 404, "sampling session"),
        ({"sampling_session_id": "\x00"}, 404, "sampling session"),
        ({"sampling_session_id": None}, 422, "sampling_session_id"),
        ({"prompt": {"chunks": []}}, 422, "prompt"),
        ({"prompt": {"chunks": [{"type": "image"}]}}, 422, "prompt.chunks[0]"),
        ({"prompt": {"chunks": [{"tokens": [256]}]}}, 422, "vocabulary"),
        ({"prompt": {"chunks": [{"tokens": [2**40]}]}}, 422, "vocabulary"),
        ({"prompt": {"chunks": [{"tokens": [1.5]}]}}, 422, "prompt.chunks"),
        ({"sampling_params": {"max_tokens": 4096}}, 422, "sampling_params.max_tokens"),
        ({"sampling_params": {"temperature": 1e400}}, 422, "temperature"),
        ({"num_samples": 10**9}, 422, "num_samples"),
        ({"seq_id": 2**70}, 422, "seq_id"),
    ],
)
def test_a_bad_sample_is_refused(stack, changes, status, word):
    with stack.tinker_api() as api:
        body = {**_sample(_open(api)), **changes}
        answer = api.post("/asample", json=body) if word != "temperature" else _infinite(api, body)
        assert (answer.status_code, answer.headers["x-should-retry"]) == (status, "false"), answer.text
        assert word in answer.json()["detail"]


def _infinite(api: httpx.Client, body: dict[str, object]) -> httpx.Response:
    import json

    return api.post("/asample", content=json.dumps(body).replace("Infinity", "1e400").encode())


@pytest.mark.parametrize(
    ("wish", "status", "word"),
    [
        ({"base_model": "nobody"}, 404, "nobody"),
        ({"base_model": None}, 422, "base_model"),
        ({"model_path": "tinker://x"}, 422, "model_path"),
        ({"model_path": "tinker://ses_" + "a" * 26 + ":train:0/weights/n"}, 422, "training checkpoint"),
        ({"model_path": "tinker://ses_" + "a" * 26 + ":train:0/sampler_weights/n"}, 404, "checkpoint"),
        ({"sampling_session_seq_id": -1}, 422, "sampling_session_seq_id"),
        ({"session_id": "ses_unknown"}, 404, "session"),
    ],
)
def test_what_cannot_be_sampled_from_is_refused(stack, wish, status, word):
    with stack.tinker_api() as api:
        session_id = api.post("/create_session", json={}).json()["session_id"]
        body = {"session_id": session_id, "sampling_session_seq_id": 0, "base_model": "tiny", **wish}
        answer = api.post("/create_sampling_session", json=body)
        assert (answer.status_code, answer.headers["x-should-retry"]) == (status, "false"), answer.text
        assert word in answer.json()["detail"]
