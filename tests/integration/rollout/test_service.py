"""The rollout service as a process, on real Postgres and NATS."""

import asyncio
import shutil
from pathlib import Path

import httpx
import pytest

from mint_common.blobs.localfs import LocalBlobs
from mint_common.ids import JobId, PolicyId
from mint_common.records import decode_record
from tests.integration.rollout.neighbours import Neighbours, Trainer
from tests.integration.rollout.process import make_rollout, show, until
from tests.processes import ServiceProcess
from tests.testing.factories import JOB, TENANT
from tests.unit.rollout.world import EOS, published, submitted, tokens_of

pytestmark = pytest.mark.integration


async def test_a_job_runs_from_its_submission_to_its_last_revision(
    nats_url: str, rollout: ServiceProcess, client: httpx.AsyncClient, neighbours: Neighbours, tmp_path: Path
) -> None:
    neighbours.refusals = 3
    neighbours.aborts = 2
    trainer = Trainer()
    async with trainer.running(nats_url):
        await trainer.submit(submitted(steps=5, prompts_per_step=4, group_size=4))
        await until(lambda: len(trainer.ends) == 1)
    job = await show(client)
    assert (job["state"], job["reason"]) == ("succeeded", "")
    steps = job["steps"]
    assert isinstance(steps, list)
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5]
    assert [step["revision"]["digest"] for step in steps] == [
        published(step).revision.digest for step in range(1, 6)
    ]
    assert {step["reward_mean"] for step in steps} == {0.5}
    assert trainer.ends[0].outcome == "succeeded"
    assert [wave.step for wave in trainer.waves] == [1, 2, 3, 4, 5]
    last = decode_record(await LocalBlobs(tmp_path / "blobs").get(trainer.waves[-1].record))
    assert last.revision == published(4).revision.digest
    group = last.groups[0]
    sample = group.samples[1]
    assert len(group.prompt_experts) == 4 * len(group.prompt_tokens)
    assert sample.experts == b"\x01\x00\x02\x00" * (len(sample.tokens) - 1)
    assert (sample.tokens, sample.reward) == ((*tokens_of(sample.text), EOS), 1.0)
    metrics = (await client.get("/metrics")).text
    assert 'mint_rollout_waves_total{algorithm="grpo"} 5.0' in metrics
    assert 'mint_rollout_samples_total{algorithm="grpo"} 80.0' in metrics
    assert rollout.stop() == 0


async def test_an_sft_job_needs_no_samples(
    nats_url: str, rollout: ServiceProcess, client: httpx.AsyncClient, neighbours: Neighbours, tmp_path: Path
) -> None:
    trainer = Trainer()
    async with trainer.running(nats_url):
        await trainer.submit(submitted(algorithm="sft", task="mode:rev", steps=2, group_size=1))
        await until(lambda: len(trainer.ends) == 1)
    assert (await show(client))["state"] == "succeeded"
    assert neighbours.requests == []
    record = decode_record(await LocalBlobs(tmp_path / "blobs").get(trainer.waves[0].record))
    assert all(sample.logprobs == () for group in record.groups for sample in group.samples)


async def test_a_killed_process_goes_on_where_it_was(
    nats_url: str, rollout: ServiceProcess, client: httpx.AsyncClient, neighbours: Neighbours
) -> None:
    trainer = Trainer()
    async with trainer.running(nats_url):
        await trainer.submit(submitted(steps=4))
        for kill in range(3):
            neighbours.held.set()
            seen = len(neighbours.requests)
            await until(lambda: len(neighbours.requests) > seen)  # noqa: B023  # awaited within the loop
            rollout.kill()
            neighbours.held.clear()
            await asyncio.to_thread(rollout.start)
            assert kill < 3
        await until(lambda: len(trainer.ends) == 1)
    assert (await show(client))["state"] == "succeeded"
    assert [wave.step for wave in trainer.waves] == [1, 2, 3, 4]


async def test_many_jobs_share_the_service_and_a_stuck_one_delays_nobody(
    nats_url: str, rollout: ServiceProcess, client: httpx.AsyncClient
) -> None:
    trainer = Trainer()
    jobs = [JobId(f"job_{number}") for number in range(6)]
    async with trainer.running(nats_url):
        for job_id in jobs:
            await trainer.submit(submitted(job_id=job_id, policy_id=PolicyId(f"pol_{job_id}"), steps=3))
        unknown = submitted(job_id=JobId("job_unknown"), policy_id=PolicyId("pol_x"), task="mode:nothing")
        await trainer.submit(unknown)
        await until(lambda: len(trainer.ends) == len(jobs) + 1)
    for job_id in jobs:
        assert (await show(client, job_id))["state"] == "succeeded"
    failed = await show(client, JobId("job_unknown"))
    assert (failed["state"], failed["steps"]) == ("failed", [])
    assert "mode:nothing" in str(failed["reason"])


async def test_jobs_of_one_policy_run_one_after_another(
    nats_url: str, rollout: ServiceProcess, client: httpx.AsyncClient
) -> None:
    trainer = Trainer()
    jobs = [JobId(f"job_{number}") for number in range(4)]
    async with trainer.running(nats_url):
        for job_id in jobs:
            await trainer.submit(submitted(job_id=job_id, steps=2))
        await trainer.submit(submitted(job_id=JobId("job_unknown"), task="mode:nothing"))
        await until(lambda: len(trainer.ends) == len(jobs) + 1)
    trained = [wave.job_id for wave in trainer.waves]
    assert trained == [job_id for job_id in dict.fromkeys(trained) for _ in range(2)]
    assert sorted(set(trained)) == jobs


async def test_a_job_is_cancelled_while_its_wave_is_sampled(
    nats_url: str, rollout: ServiceProcess, client: httpx.AsyncClient, neighbours: Neighbours
) -> None:
    neighbours.held.set()
    trainer = Trainer()
    async with trainer.running(nats_url):
        await trainer.submit(submitted(steps=4))
        await until(lambda: len(neighbours.requests) > 0)
        answer = await client.post(f"/internal/tenants/{TENANT}/jobs/{JOB}/cancel")
        assert answer.json()["state"] == "cancelled"
        await until(lambda: len(trainer.ends) == 1)
    assert trainer.ends[0].outcome == "cancelled"
    assert trainer.waves == []
    assert rollout.stop() == 0
    neighbours.held.clear()


async def test_a_job_outlives_the_loss_of_all_nats_data(
    tmp_path: Path, own_nats, database: str, neighbours: Neighbours
) -> None:
    rollout = make_rollout(tmp_path, nats_url=own_nats.address, dsn=database, neighbours=neighbours)
    await asyncio.to_thread(rollout.start)
    trainer = Trainer()
    try:
        async with trainer.running(own_nats.address):
            await trainer.submit(submitted(steps=6))
            await until(lambda: len(trainer.waves) >= 2)
            own_nats.kill()
            for store in Path(own_nats.launch.folder).rglob("jetstream"):
                shutil.rmtree(store)
            await asyncio.to_thread(own_nats.start)
            await until(lambda: len(trainer.ends) >= 1, seconds=80)
        assert sorted({wave.step for wave in trainer.waves}) == [1, 2, 3, 4, 5, 6]
        assert len(trainer.waves) == 6
        assert trainer.ends[0].outcome == "succeeded"
    finally:
        rollout.kill()
