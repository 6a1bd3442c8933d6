"""A job in an environment on a whole stack of real services: records, training, and what its user sees."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from mint_common.blobs.localfs import LocalBlobs
from mint_common.claims import Claim
from mint_common.records import WaveRecord, decode_record, trained_ranges
from services.standalone.adapters.launch import free_port
from tests.processes import ROOT, SERVICES, ServiceProcess

pytestmark = [pytest.mark.engine, pytest.mark.integration, pytest.mark.timeout(900)]

KEY = "tml-default-of-the-tests"
JOB_SECONDS = 240.0
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""Roles, and a text behind the stop token, as ChatML has them."""


@dataclass(frozen=True, kw_only=True)
class RealServices:
    """The running services, and a client of their public API."""

    client: httpx.AsyncClient
    processes: Mapping[str, ServiceProcess]
    blobs: LocalBlobs


@pytest.fixture
async def services(tmp_path: Path, nats_url: str, database: str) -> AsyncIterator[RealServices]:
    """Run the services."""
    ports = {name: str(free_port()) for name in SERVICES}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    environ = {
        "MINT_NATS_URL": nats_url,
        "MINT_POSTGRES_DSN": database,
        "MINT_BLOBS_URL": f"file://{tmp_path}/blobs",
        "MINT_INTERNAL_TOKEN": "internal",
        "MINT_PEERS_REGISTRY_URL": urls["registry"],
        "MINT_PEERS_ROLLOUT_URL": urls["rollout"],
        "MINT_PEERS_LOADER_URLS": urls["loader"],
        "MINT_PEERS_TRAINER_URLS": urls["trainer"],
        "MINT_REGISTRY_BOOTSTRAP_KEY": KEY,
        "MINT_TRAINER_BASE_DIR": str(ROOT / "bases/tiny"),
        "MINT_LOADER_BASE_DIR": str(ROOT / "bases/tiny"),
        "MINT_LOADER_ENGINE_ID": "tiny-0",
        "MINT_LOADER_CACHE_DIR": str(tmp_path / "cache"),
        "MINT_LOADER_KV_CACHE_BYTES": str(32 << 20),
        "MINT_LOADER_CHAT_TEMPLATE": str(tmp_path / "template.jinja"),
        **{f"MINT_{name.upper()}_HTTP_PORT": port for name, port in ports.items()},
    }
    launch = (str(Path(__file__).with_name("environment_service.py")),)
    processes = {
        name: ServiceProcess(
            name, environ, tmp_path / f"{name}.log", ("-m",) if name != "rollout" else launch
        )
        for name in ("registry", "loader", "trainer", "rollout", "gateway")
    }
    async with AsyncExitStack() as stack:
        for process in processes.values():
            await stack.enter_async_context(process.running())
        headers = {"authorization": f"Bearer {KEY}"}
        opening = httpx.AsyncClient(
            base_url=f"{urls['gateway']}/mint/v1", headers=headers, timeout=60, trust_env=False
        )
        client = await stack.enter_async_context(opening)
        yield RealServices(client=client, processes=processes, blobs=LocalBlobs(tmp_path / "blobs"))


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def get(client: httpx.AsyncClient, path: str, **query: int) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ended(services: RealServices, job_id: str, *, seen: Path, kills: int) -> Any:
    """Return a job after its end; its engine is killed as often while its episodes run."""
    deadline = time.monotonic() + JOB_SECONDS
    while (job := await get(services.client, f"/jobs/{job_id}"))["state"] in {"submitted", "running"}:
        assert time.monotonic() < deadline, job
        if kills and seen.exists() and job["step"] < 2:
            loader, kills = services.processes["loader"], kills - 1
            await asyncio.to_thread(loader.kill)
            await asyncio.sleep(2)
            await asyncio.to_thread(loader.start)
        await asyncio.sleep(0.3)
    assert not kills
    return job


@pytest.mark.slow  # `tests/e2e/test_environment.py` has a job of one turn
@pytest.mark.parametrize("kills", [0, 1])
async def test_a_grpo_job_trains_on_what_the_door_recorded(
    services: RealServices, tmp_path: Path, database: str, kills: int
) -> None:
    client, seen = services.client, tmp_path / "seen.jsonl"
    env = {"kind": "http", "id": "letters", "args": {"log": str(seen)}, "max_turns": 2, "episode_seconds": 60}
    await post(client, "/policies", {"name": "agent", "base": "tiny", "lora": {"rank": 4, "alpha": 8}}, 201)
    body = {
        "policy": "agent",
        "env": env,
        "steps": 3,
        "prompts_per_step": 2,
        "group_size": 4,
        "max_new_tokens": 6,
        "temperature": 0.7,
        "learning_rate": 0.01,
    }
    for wrong, status in (
        ({"task": "progression"}, 422),
        ({"env": {**env, "id": "numbers"}}, 404),
        ({"env": {**env, "args": {}}}, 422),
        ({"env": {**env, "extra": 1}}, 422),
        ({"env": None}, 422),
        ({"algorithm": "sft", "group_size": 1}, 422),
    ):
        await post(client, "/jobs", {**body, **wrong}, status)
    job_id = (await post(client, "/jobs", body, 202))["job_id"]
    job = await ended(services, job_id, seen=seen, kills=kills)
    assert (job["state"], len(job["steps"])) == ("succeeded", 3), job["reason"]
    assert job["spec"]["environment"]["min_group"] == 3
    for step in job["steps"]:
        assert step["ratio_max_error"] <= 1e-3, step
        assert set(step["episodes"]) <= {"ok", "truncated"}
        assert sum(step["episodes"].values()) == 8

    told = [json.loads(line) for line in seen.read_text().splitlines()]
    assert len(told) == 24
    records = await recorded(services, database)
    segments = Counter(
        (group.prompt_tokens + sample.tokens, sample.reward)
        for record in records
        for group in record.groups
        for sample in group.samples
    )
    assert segments == Counter((tuple(each["tokens"]), each["reward"]) for each in told)
    assert {record.logprobs_temperature for record in records} == {0.7}
    assert [record.revision for record in records] == [step["sampled"] for step in job["steps"]]

    shown = await get(client, f"/jobs/{job_id}/rollouts", step=2, group=1)
    assert len(shown["episodes"]) == 4
    rewards = Counter(each["reward"] for each in shown["episodes"])
    (group,) = [r.groups[1] for r in records if r.revision == shown["revision"]][:1]
    assert rewards == Counter(sample.reward for sample in group.samples)
    by_texts = {tuple(each["texts"]): each["reward"] for each in told}
    for episode in shown["episodes"]:
        (parts,) = episode["segments"]
        sampled = [part for part in parts if part["kind"] == "sampled"]
        texts = tuple(part["text"].removesuffix("<eos>") for part in sampled)
        assert by_texts[texts] == episode["reward"]
        assert episode["turns"] == len(sampled) == 2
        assert all(len(part["logprobs"]) == len(part["tokens"]) for part in sampled)
    assert (await client.get(f"/jobs/{job_id}/rollouts", params={"step": 9})).status_code == 404
    assert (await client.get(f"/jobs/{job_id}/rollouts", params={"step": 1, "group": 9})).status_code == 422


async def recorded(services: RealServices, database: str) -> list[WaveRecord]:
    """Return the records of all steps, as the trainer has read them."""
    connection = await asyncpg.connect(database)
    rows = await connection.fetch("SELECT record FROM rollout.waves ORDER BY step")
    await connection.close()
    found = [decode_record(await services.blobs.get(Claim(**json.loads(row["record"])))) for row in rows]
    for record in found:
        for group in record.groups:
            for sample in group.samples:
                ranges = trained_ranges(sample.tokens, sample.trained)
                inside = {at for start, end in ranges for at in range(start, end)}
                assert all(value == 0.0 for at, value in enumerate(sample.logprobs) if at not in inside)
    return found
