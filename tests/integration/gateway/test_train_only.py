"""A base that is trained and not served: what needs an engine is refused with the reason, at once."""

import asyncio
from dataclasses import replace

import httpx
import pytest

from mint_common.adapters_format.base_facts import ProbeLine, ProbeResult
from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.ids import BaseName
from tests.integration.gateway.conftest import TOKEN
from tests.integration.gateway.test_fine_tuning import EXACT, ROWS, client_of, end

pytestmark = pytest.mark.integration

SENTENCE = "base ninth is only trained: it was added with `mint base add --train-only`"
CHAT = {"messages": [{"role": "user", "content": "1?"}]}


@pytest.fixture(scope="module", autouse=True)
def ninth(stack) -> None:
    async def register() -> None:
        lines = (ProbeLine(part="engine", status="failed", note="AssertionError: not here"),)
        probe = ProbeResult(lines=lines, dtype="float32", small="2 layers", seconds=20.5)
        facts = replace(stack.facts, name=BaseName("ninth"), trained_only=True, probe=probe)
        async with InternalHttp(stack.registry_url, token=TOKEN) as http:
            registry = RegistryClient(http)
            assert await registry.put_base(facts) == facts
            lora = {"rank": 2, "alpha": 4, "seed": 0}
            await registry.create_policy(stack.tenant_id, name="untold", base=facts.name, lora=lora)

    asyncio.run(register())


@pytest.fixture
def http(stack):
    headers = {"authorization": f"Bearer {stack.key}"}
    with httpx.Client(base_url=stack.url, headers=headers, timeout=30) as client:
        yield client


def test_its_facts_say_so_with_the_lines_of_its_probe(http):
    told = http.get("/mint/v1/bases/ninth").json()
    assert told["trained_only"]
    assert told["probe"]["lines"] == [
        {"part": "engine", "status": "failed", "nats": None, "note": "AssertionError: not here", "right": []}
    ]
    assert (told["probe"]["dtype"], told["probe"]["small"]) == ("float32", "2 layers")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"prompt": "1?"}),
        ("/v1/responses", {"input": "1?"}),
        ("/v1/messages", {**CHAT, "max_tokens": 4}),
        ("/inference/v1/generate", {"token_ids": [5], "sampling_params": {"max_tokens": 2}}),
        ("/tokenize", {"prompt": "1?"}),
    ],
)
def test_a_route_that_serves_is_a_bad_request(http, path, body):
    refused = http.post(path, json={"model": "ninth", **body})
    assert refused.status_code in {400, 422}, refused.text
    assert SENTENCE in refused.text


def test_it_is_no_model_of_the_list(http):
    listed = [model["id"] for model in http.get("/v1/models").json()["data"]]
    assert not {"ninth", "untold"} & set(listed)


def test_jobs_and_evaluations_that_sample_are_refused_and_say_why(http):
    job = {"policy": "untold", "task": "mode:copy", "steps": 1}
    run = {"policy": "untold", "task": "mode:copy", "n": 4}
    refused = http.post("/mint/v1/jobs", json=job)
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "policy")
    assert SENTENCE in refused.text
    for body, field in ((run, "revision"), ({**run, "policy": None, "model": "ninth"}, "model")):
        refused = http.post("/mint/v1/evaluations/run", json=body)
        assert refused.status_code in {404, 422}, refused.text
        assert field in refused.text
    assert SENTENCE in refused.text


def test_a_job_on_a_file_samples_nothing_or_is_refused(stack):
    with client_of(stack) as client:
        files = {
            name: client.files.create(file=(f"{name}.jsonl", ROWS[name]), purpose="fine-tune").id
            for name in ("chat", "reward")
        }
        job = client.fine_tuning.jobs.create(model="ninth", training_file=files["chat"])
        assert job.status in {"queued", "running"}
        end(client, job.id)
        reinforcement = {"type": "reinforcement", "reinforcement": {"grader": EXACT}}
        with pytest.raises(Exception, match="only trained") as refused:
            client.fine_tuning.jobs.create(model="ninth", training_file=files["reward"], method=reinforcement)
        assert refused.value.param == "model"


def test_tinker_samples_are_refused(stack):
    with stack.tinker_api() as tinker:
        session = tinker.post("/create_session", json={"tags": [], "sdk_version": "0.38.0"}).json()
        wish = {"session_id": session["session_id"], "sampling_session_seq_id": 0, "base_model": "ninth"}
        sampler = tinker.post("/create_sampling_session", json=wish).json()
        body = {
            "sampling_session_id": sampler["sampling_session_id"],
            "seq_id": 0,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5]}]},
            "sampling_params": {"max_tokens": 2},
        }
        refused = tinker.post("/asample", json=body)
        assert 400 <= refused.status_code < 429
        assert SENTENCE in refused.text
