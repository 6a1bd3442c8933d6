"""A revision whose output is not finite: what its owner's requests, samples, jobs and listeners are told."""

import asyncio
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from mint_common.bus.nats import connect_nats
from mint_common.events import AdapterNonFinite
from mint_common.ids import Digest, EngineId
from mint_common.runtime.dispatch import publish_event

pytestmark = pytest.mark.integration

SECONDS = 60.0


@pytest.fixture
def mint(stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client
    stack.loader.poison.clear()


def make_poisoned(stack, mint: httpx.Client, name: str) -> Digest:
    """Make a policy of two revisions, the second of which has no finite output."""
    stack.make_policy(name, revisions=2)
    digest = Digest(mint.get(f"/policies/{name}/revisions/2").json()["digest"])
    stack.loader.poison.add(digest)
    return digest


def tell(stack, digest: Digest) -> None:
    """Say what a loader says."""
    event = AdapterNonFinite(
        tenant_id=stack.tenant_id,
        base=stack.facts.name,
        engine_id=EngineId("scripted"),
        epoch="1",
        sequence=int(time.time() * 1000),
        digest=digest,
    )

    async def publish() -> None:
        bus = await connect_nats(stack.nats_url, name="loader")
        await publish_event(bus, event, cause="test", now=time.time())
        await bus.close()

    asyncio.run(publish())


def ask(stack, mint: httpx.Client, model: str) -> tuple[int, str]:
    answer = mint.post(f"{stack.url}/v1/completions", json={"model": model, "prompt": "hi", "max_tokens": 40})
    return answer.status_code, answer.text


def await_that(question: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_names_lead_to_it_no_more_until_it_is_restored(stack, mint) -> None:
    digest = make_poisoned(stack, mint, "spoilt")
    alias = "/policies/spoilt/aliases/prod"
    assert mint.put(alias, json={"revision": 2}).status_code == 200
    status, text = ask(stack, mint, "spoilt")
    assert (status, "non_finite_output" in text) == (400, True)
    tell(stack, digest)
    await_that(lambda: ask(stack, mint, "spoilt")[0] == 404)
    seen = len(stack.loader.calls)
    for name in ("spoilt", "spoilt@prod", "spoilt@2"):
        status, text = ask(stack, mint, name)
        assert (status, "quarantined" in text, "roll back or restore it" in text) == (404, True, True)
    assert len(stack.loader.calls) == seen, "no engine was asked"
    assert ask(stack, mint, "spoilt@1")[0] == 200
    assert mint.get("/policies/spoilt/revisions/2").json()["state"] == "quarantined"
    assert mint.get(alias).json()["revision"]["number"] == 2
    refused = mint.put("/policies/spoilt/aliases/other", json={"revision": 2})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "revision_quarantined")

    assert mint.post("/policies/spoilt/revisions/2/restore").json()["state"] == "published"
    stack.loader.poison.clear()
    await_that(lambda: ask(stack, mint, "spoilt")[0] == 200)


def test_its_owner_hears_of_it_and_a_roll_back_helps(stack, mint) -> None:
    digest = make_poisoned(stack, mint, "heard")
    for number in (1, 2):
        assert mint.put("/policies/heard/aliases/prod", json={"revision": number}).status_code == 200
    with mint.stream("GET", "/events", timeout=SECONDS) as events:
        lines = events.iter_lines()
        next(lines)
        tell(stack, digest)
        assert any("revision.quarantined" in line and digest in line for line in lines)
    assert mint.post("/policies/heard/aliases/prod/rollback").status_code == 200
    await_that(lambda: ask(stack, mint, "heard")[0] == 200)


def test_a_sample_ends_as_its_users_and_a_job_with_the_reason(stack, mint) -> None:
    make_poisoned(stack, mint, "worked")
    headers = {"x-api-key": stack.key}
    with httpx.Client(base_url=f"{stack.url}/api/v1", headers=headers, timeout=30) as api:
        session = api.post("/create_session", json={}).json()["session_id"]
        opened = api.post(
            "/create_sampling_session",
            json={"session_id": session, "sampling_session_seq_id": 0, "base_model": "worked@2"},
        ).json()["sampling_session_id"]
        order = {
            "sampling_session_id": opened,
            "seq_id": 0,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [104, 105]}]},
            "sampling_params": {"max_tokens": 8},
        }
        request_id = api.post("/asample", json=order).json()["request_id"]
        told = api.post("/retrieve_future", json={"request_id": request_id}).json()
    assert (told["category"], "not finite" in told["error"]) == ("user", True)

    wish = {"policy": "worked", "task": "mode:copy", "steps": 2, "prompts_per_step": 1, "group_size": 2}
    job = mint.post("/jobs", json=wish).json()["job_id"]
    await_that(lambda: mint.get(f"/jobs/{job}").json()["state"] == "failed")
    assert "not finite" in mint.get(f"/jobs/{job}").json()["reason"]
