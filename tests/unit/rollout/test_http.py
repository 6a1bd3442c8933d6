"""The internal routes, over the real application edge."""

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI

from mint_common.bounds import DAY_SECONDS
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.ids import JobId, PolicyId, TenantId
from mint_common.lora import MAX_SEED
from mint_common.quotas import QuotaExceeded
from mint_common.records import decode_prompts
from mint_common.runtime.edge import create_http
from services.rollout.core.quotas import JobQuotas
from services.rollout.handlers.lengths import token_lengths
from services.rollout.http.jobs import job_routes
from services.rollout.http.tasks import task_routes
from tests.testing.factories import BASE, JOB, TENANT
from tests.unit.rollout.rig import Rig
from tests.unit.rollout.world import published, submitted

JOBS = f"/internal/tenants/{TENANT}/jobs"


def make_http(rig: Rig) -> FastAPI:
    http = create_http(title="rollout", service="rollout", internal_token=None, ready=lambda: True)
    http.include_router(task_routes(rig.tasks))
    http.include_router(job_routes(rig.of_jobs, TrainerDirectory([], token="none")))
    return http


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
async def client(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=make_http(rig))
    async with httpx.AsyncClient(transport=transport, base_url="http://rollout") as client:
        yield client


async def test_a_task_shows_its_recipe(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/internal/tasks/mode:copy")).json()
    assert answer["name"] == "mode:copy"
    assert answer["defaults"] == {
        "steps": 60,
        "prompts_per_step": 8,
        "group_size": 16,
        "max_new_tokens": 8,
        "temperature": 1.0,
        "learning_rate": 2e-3,
        "rank": 8,
        "alpha": 16.0,
    }


async def test_tasks_are_listed(client: httpx.AsyncClient) -> None:
    names = [task["name"] for task in (await client.get("/internal/tasks")).json()]
    assert {"progression", "mode:sort", "reasoning-gym:gsm_symbolic"} <= set(names)


async def test_an_unknown_task_is_404_naming_it(client: httpx.AsyncClient) -> None:
    for path, method in (("", "GET"), ("/prompts", "POST"), ("/score", "POST")):
        body = (
            {"split": "train", "n": 1, "seed": 0}
            if path == "/prompts"
            else {"items": [{"entry": "0", "text": "a"}]}
        )
        answer = await client.request(method, f"/internal/tasks/mode:cpy{path}", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["name"]) == (404, "not_found", "mode:cpy")
        assert "mode:copy" in error["near"]


async def test_a_tenant_that_has_as_much_as_it_may_is_refused_another_job(rig: Rig) -> None:
    await rig.begin(submitted())
    quotas = JobQuotas(open_jobs=2, trainer_seconds=10.0)

    async def check(tenant: TenantId) -> None:
        quotas.check(await rig.jobs.usage(tenant, since=rig.clock.now() - DAY_SECONDS))

    await check(TENANT)
    await rig.begin(submitted(job_id=JobId("job_2"), policy_id=PolicyId("pol_2")))
    with pytest.raises(QuotaExceeded) as refused:
        await check(TENANT)
    assert refused.value.limit == 2
    await rig.commits.cancel(JobId("job_2"))
    await rig.of_jobs.on_revision_published(replace(published(1), metrics={"seconds": 10.0}))
    with pytest.raises(QuotaExceeded, match="10 seconds of training in 24 hours"):
        await check(TENANT)
    await check(TenantId("ten_other"))


async def test_prompts_are_drawn_and_scored(client: httpx.AsyncClient) -> None:
    body = {"split": "heldout", "n": 5, "seed": 3}
    prompts = (await client.post("/internal/tasks/mode:rev/prompts", json=body)).json()["prompts"]
    again = (await client.post("/internal/tasks/mode:rev/prompts", json=body)).json()["prompts"]
    assert prompts == again
    assert len(prompts) == 5
    items = [{"entry": prompt["entry"], "text": prompt["reference"]} for prompt in prompts]
    items.append({"entry": prompts[0]["entry"], "text": "wrong"})
    rewards = (await client.post("/internal/tasks/mode:rev/score", json={"items": items})).json()["rewards"]
    assert rewards == [1.0] * 5 + [0.0]


async def test_a_tasks_texts_are_measured_in_tokens(rig: Rig) -> None:
    rig.engine.start = (1,)
    lengths = await token_lengths(rig.tasks, rig.engine, "mode:copy", base=BASE, n=3, seed=0)
    wave = await rig.begin(submitted(task="mode:copy", seed=0, prompts_per_step=3))
    prompts = decode_prompts(await rig.blobs.get(wave.prompts))
    assert lengths.prompts == tuple(1 + len(prompt.text) for prompt in prompts)
    assert lengths.references == tuple(len(prompt.reference) + 1 for prompt in prompts)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"split": "test", "n": 1, "seed": 0}, "split"),
        ({"split": "train", "n": 0, "seed": 0}, "n"),
        ({"split": "train", "n": 1, "seed": 0, "size": 3}, "size"),
        ({"split": "train", "n": 1, "seed": MAX_SEED + 1}, "seed"),
    ],
)
async def test_bad_input_names_its_field(
    client: httpx.AsyncClient, body: dict[str, object], field: str
) -> None:
    answer = await client.post("/internal/tasks/progression/prompts", json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


async def test_a_job_shows_its_steps(client: httpx.AsyncClient, rig: Rig) -> None:
    wave = await rig.begin(submitted())
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    await rig.of_jobs.on_revision_published(published(1))
    job = (await client.get(f"{JOBS}/{JOB}")).json()
    assert (job["state"], job["reason"], job["base"], job["spec"]["steps"]) == ("running", "", "tiny", 3)
    assert (job["step"], job["total_steps"], job["reward"], job["best"]) == (1, 3, 1.0, None)
    first, second = job["steps"]
    assert (first["step"], first["state"], first["reward_mean"]) == (1, "published", 1.0)
    assert first["revision"]["digest"] == published(1).revision.digest
    assert first["ratio_max_error"] == 0.0
    assert job["started_at"] == first["requested_at"]
    assert (second["step"], second["state"], second["revision"]) == (2, "requested", None)
    assert second["sampled"] == published(1).revision.digest
    assert second["sampled_number"] == 1
    bare = (await client.get(f"{JOBS}/{JOB}", params={"steps": "false"})).json()
    assert bare == {**job, "steps": [], "by_staleness": []}
    assert (await client.get(JOBS)).json() == [bare]
    await rig.let_pass(rig.of_waves.on_wave_requested((await rig.led_to(published(1)))[0]))
    best = (await client.get(f"{JOBS}/{JOB}")).json()["best"]
    assert best == {"digest": published(1).revision.digest, "number": 1, "reward": 1.0, "step": 2}


async def test_a_job_of_another_tenant_does_not_exist(client: httpx.AsyncClient, rig: Rig) -> None:
    await rig.begin(submitted())
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/pause"), ("POST", "/resume")):
        answer = await client.request(method, f"/internal/tenants/ten_other/jobs/{JOB}{path}")
        assert (answer.status_code, answer.json()["error"]["name"]) == (404, JOB)
    assert (await client.get("/internal/tenants/ten_other/jobs")).json() == []
    assert await rig.state_of() == ("running", "")


async def test_a_job_is_cancelled_once(client: httpx.AsyncClient, rig: Rig) -> None:
    await rig.begin(submitted())
    for _ in range(2):
        answer = await client.post(f"{JOBS}/{JOB}/cancel")
        assert (answer.status_code, answer.json()["state"], answer.json()["steps"]) == (200, "cancelled", [])
    assert (await client.get(f"{JOBS}/{JOB}")).json()["steps"][0]["state"] == "cancelled"


async def test_a_job_is_paused_and_resumed_until_it_ends(client: httpx.AsyncClient, rig: Rig) -> None:
    wave = await rig.begin(submitted())
    answer = await client.post(f"{JOBS}/{JOB}/pause")
    assert (answer.json()["state"], answer.json()["is_pausing"]) == ("running", True)
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    await rig.of_jobs.on_revision_published(published(1))
    assert (await client.get(f"{JOBS}/{JOB}")).json()["state"] == "paused"
    answer = await client.post(f"{JOBS}/{JOB}/resume")
    assert (answer.json()["state"], answer.json()["is_pausing"]) == ("running", False)
    assert answer.json()["steps"] == []
    steps = (await client.get(f"{JOBS}/{JOB}")).json()["steps"]
    assert [step["state"] for step in steps] == ["published", "requested"]
    await client.post(f"{JOBS}/{JOB}/cancel")
    answer = await client.post(f"{JOBS}/{JOB}/pause")
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "job")
