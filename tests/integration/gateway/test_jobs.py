"""Managed jobs: checked before anything exists, submitted once, followed and cancelled."""

import asyncio
import time
from dataclasses import replace

import asyncpg
import httpx
import pytest

from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.ids import BaseName
from tests.integration.gateway.conftest import TOKEN

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 90.0
JOB = {"policy": "pupil", "task": "mode:copy", "steps": 2, "prompts_per_step": 1, "group_size": 2}


@pytest.fixture(scope="module")
def pupil(stack):
    return stack.make_policy("pupil")


@pytest.fixture
def mint(stack, pupil):
    with stack.client() as client:
        yield client


def _query(stack, statement: str, *args):
    async def ask():
        connection = await asyncpg.connect(stack.dsn)
        try:
            return await connection.fetch(statement, *args)
        finally:
            await connection.close()

    return asyncio.run(ask())


def _count(stack) -> int:
    return _query(stack, "SELECT count(*) AS n FROM rollout.jobs")[0]["n"]


def test_tasks_recommend_and_score(mint):
    names = [task["name"] for task in mint.get("/tasks").json()]
    assert "mode:copy" in names
    task = mint.get("/tasks/mode:copy").json()
    assert task["defaults"]["steps"] >= 1
    drawn = mint.post("/tasks/mode:copy/prompts", json={"split": "heldout", "n": 2, "seed": 1}).json()[
        "prompts"
    ]
    items = [{"entry": prompt["entry"], "text": prompt["reference"]} for prompt in drawn]
    assert mint.post("/tasks/mode:copy/score", json={"items": items}).json() == {"rewards": [1.0, 1.0]}
    assert mint.get("/tasks/nobody").status_code == 404
    assert mint.post("/tasks/mode:copy/prompts", json={"n": 0}).json()["error"]["field"] == "n"


async def test_a_heavy_draw_holds_nobody_up_and_ends_with_its_client(stack, mint):
    mint.get("/tasks")  # what it lists is known from now on
    async with httpx.AsyncClient(base_url=mint.base_url, headers=mint.headers, timeout=60) as client:
        body = {"n": 1024}
        leaving = [
            asyncio.create_task(client.post("/tasks/reasoning-gym:sokoban/prompts", json=body))
            for _ in range(4)
        ]
        for path in ("/jobs", "/tasks", "/tasks/mode:copy") * 3:
            assert (await client.get(path)).status_code == 200
        assert not all(each.done() for each in leaving)
        for each in leaving:
            each.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
    # The only worker for callers is free again: its wait ends in a 429 otherwise.
    assert mint.post("/tasks/mode:copy/prompts", json={"n": 2}).status_code == 200


def test_a_job_is_submitted_taken_and_cancelled(mint, pupil):
    answer = mint.post("/jobs", json=JOB)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["state"], job["policy_id"], job["spec"]["steps"]) == ("submitted", pupil.policy_id, 2)
    assert job["spec"]["learning_rate"] > 0
    assert (job["policy"], job["warnings"]) == ("pupil", [])
    assert [job[name] for name in ("step", "total_steps", "reward", "best")] == [0, 2, None, None]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (state := mint.get(f"/jobs/{job['job_id']}").json()["state"]) == "submitted":
        assert time.monotonic() < deadline
    assert state == "running"
    (listed,) = [one for one in mint.get("/jobs").json() if one["job_id"] == job["job_id"]]
    assert (listed["policy"], listed["total_steps"], listed["warnings"]) == ("pupil", 2, [])
    assert listed["started_at"] >= job["created_at"]
    assert set(job) == set(listed) == set(mint.get(f"/jobs/{job['job_id']}").json())
    assert mint.post(f"/jobs/{job['job_id']}/cancel").status_code == 200
    assert mint.get(f"/jobs/{job['job_id']}").json()["state"] == "cancelled"


def test_what_can_go_wrong_is_said_at_once_and_stays_with_the_job(mint):
    job = mint.post("/jobs", json={**JOB, "learning_rate": 0.05, "max_new_tokens": 1}).json()
    rate, answers = job["warnings"]
    assert rate.startswith("learning_rate 0.05 is above 0.01")
    assert answers.startswith("1 of 1 reference answers of mode:copy are longer than max_new_tokens 1")
    (listed,) = [one for one in mint.get("/jobs").json() if one["job_id"] == job["job_id"]]
    shown = mint.get(f"/jobs/{job['job_id']}").json()
    assert shown["warnings"] == listed["warnings"] == job["warnings"]
    mint.post(f"/jobs/{job['job_id']}/cancel")


def test_the_same_key_and_body_is_the_same_job(mint, stack):
    headers = {"idempotency-key": "once"}
    first = mint.post("/jobs", json=JOB, headers=headers)
    before = _count(stack)
    again = mint.post("/jobs", json=JOB, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert _count(stack) == before
    conflict = mint.post("/jobs", json={**JOB, "steps": 3}, headers=headers)
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (422, "idempotency_conflict")
    assert _count(stack) == before
    mint.post(f"/jobs/{first.json()['job_id']}/cancel")


def test_one_request_sent_at_once_from_everywhere_is_one_job(stack, mint):
    import concurrent.futures

    def send(_: int):
        return mint.post("/jobs", json=JOB, headers={"idempotency-key": "race"}).json()["job_id"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = set(pool.map(send, range(16)))
    assert len(jobs) == 1
    mint.post(f"/jobs/{jobs.pop()}/cancel")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 10_001}, "steps"),
        ({"group_size": 1}, "group_size"),
        ({"group_size": 129}, "group_size"),  # more than its engines take
        ({"algorithm": "sft"}, "group_size"),
        ({"algorithm": "ppo"}, "algorithm"),
        ({"beta": 0.1}, "beta"),
        ({"algorithm": "dpo", "beta": 0}, "beta"),
        ({"max_new_tokens": 100_000}, "max_new_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": 0.2}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"kl_coefficient": -1}, "kl_coefficient"),
        ({"clip_norm": -1}, "clip_norm"),
        ({"learning_rte": 0.1}, "learning_rte"),
    ],
)
def test_a_bad_job_is_refused_by_field_and_nothing_is_created(mint, stack, change, field):
    before = _count(stack)
    refused = mint.post("/jobs", json={**JOB, **change})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, field)
    assert _count(stack) == before


async def _serve_quantized(stack) -> None:
    async with InternalHttp(stack.registry_url, token=TOKEN) as http:
        registry = RegistryClient(http)
        facts = replace(stack.facts, name=BaseName("eighth"), quantization="fp8")
        assert await registry.put_base(facts) == facts
        await registry.create_policy(
            stack.tenant_id, name="served", base=facts.name, lora={"rank": 2, "alpha": 4, "seed": 0}
        )


def test_training_over_a_quantized_base_is_refused_and_says_what_to_do(stack, mint):
    asyncio.run(_serve_quantized(stack))
    assert mint.get("/bases/eighth").json()["quantization"] == "fp8"
    refused = mint.post("/jobs", json={**JOB, "policy": "served"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "policy")
    assert "mint base add --dequantize" in refused.json()["error"]["message"]
    with httpx.Client(base_url=stack.url, headers={"X-Api-Key": stack.key}, timeout=30) as tinker:
        session = tinker.post("/api/v1/create_session", json={"tags": [], "sdk_version": "0.38.0"}).json()
        wish = {"session_id": session["session_id"], "model_seq_id": 0, "base_model": "eighth"}
        run = tinker.post("/api/v1/create_model", json={**wish, "lora_config": {"rank": 2}})
    assert run.status_code == 422, run.text
    assert "base eighth is quantized (fp8) and only served" in run.text


def test_not_a_number_is_refused(mint):
    text = '{"policy": "pupil", "task": "mode:copy", "learning_rate": NaN}'
    refused = mint.post("/jobs", content=text, headers={"content-type": "application/json"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "learning_rate")


@pytest.mark.parametrize("name", ["nobody", "", "../../healthz", "a/b", "a\0"])
@pytest.mark.parametrize("field", ["policy", "task"])
def test_unknown_names_are_not_found(mint, field, name):
    refused = mint.post("/jobs", json={**JOB, field: name})
    assert refused.status_code == 404, refused.text
    error = refused.json()["error"]
    assert (error["kind"], error["name"]) == (field, name)


def test_another_tenants_policy_and_job_do_not_exist(stack, mint):
    job = mint.post("/jobs", json=JOB).json()["job_id"]
    with stack.client(key=stack.other_key) as stranger:
        assert stranger.post("/jobs", json=JOB).status_code == 404
        assert stranger.get(f"/jobs/{job}").status_code == 404
        assert stranger.post(f"/jobs/{job}/cancel").status_code == 404
        assert job not in [theirs["job_id"] for theirs in stranger.get("/jobs").json()]
    mint.post(f"/jobs/{job}/cancel")


OPEN_JOBS = """
    INSERT INTO rollout.jobs (job_id, tenant_id, base, policy_id, lora, spec, state, reason, steps_done,
        cause, created_at, progress_at)
    SELECT 'job_open_' || number, tenant_id, base, policy_id, '{}', '{}', 'paused', '', 0, '', 0, 0
    FROM rollout.jobs, generate_series(1, 1000) AS number WHERE job_id = $1
"""


def test_a_tenant_with_as_many_open_jobs_as_it_may_have_is_refused_another(stack, mint):
    job = mint.post("/jobs", json=JOB, headers={"idempotency-key": "quota"}).json()["job_id"]
    _query(stack, OPEN_JOBS, job)
    try:
        refused = mint.post("/jobs", json=JOB)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["limit"]) == (422, "quota_exceeded", 1000)
        assert "open jobs, and may have 1000" in error["message"]
        again = mint.post("/jobs", json=JOB, headers={"idempotency-key": "quota"})
        assert (again.status_code, again.json()["job_id"]) == (202, job)
    finally:
        _query(stack, "DELETE FROM rollout.jobs WHERE job_id LIKE 'job_open_%'")
        mint.post(f"/jobs/{job}/cancel")
