"""Agents of a job and two processes of rollout: either answers for the other, or takes over from it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from services.standalone.adapters.launch import free_port
from tests.integration.rollout.test_environment_jobs import RealServices, get, post, services
from tests.processes import ServiceProcess

pytestmark = [
    pytest.mark.engine,
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

__all__ = ["services"]
USER = {"role": "user", "content": "1 2 "}


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A process of rollout, and a client that asks it as a gateway does."""

    process: ServiceProcess
    client: httpx.AsyncClient


@pytest.fixture
async def both(services: RealServices, tmp_path: Path) -> AsyncIterator[dict[str, Rollout]]:
    """Return each process of rollout by its address."""
    first = services.processes["rollout"]
    environ = {**first.environ, "MINT_ROLLOUT_HTTP_PORT": str(free_port())}
    second = ServiceProcess("rollout", environ, tmp_path / "rollout-2.log", first.launch)
    tenant = (await get(services.client, "/whoami"))["tenant_id"]
    headers = {"x-mint-internal-token": "internal"}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(second.running())
        found = {}
        for process in (first, second):
            opening = httpx.AsyncClient(
                base_url=f"{process.url}/internal/tenants/{tenant}", headers=headers, timeout=90
            )
            client = await stack.enter_async_context(opening)
            found[process.url] = Rollout(process=process, client=client)
        yield found


async def begin(services: RealServices) -> str:
    await post(services.client, "/policies", {"name": "agent", "base": "tiny", "lora": {"rank": 4}}, 201)
    body = {
        "policy": "agent",
        "env": {"kind": "session", "episode_seconds": 60},
        "steps": 1,
        "prompts_per_step": 1,
        "group_size": 4,
        "max_new_tokens": 6,
    }
    return str((await post(services.client, "/jobs", body, 202))["job_id"])


async def place_of(job_id: str, database: str, *, before: str = "") -> str:
    """Return the address of the process that has a job's wave, another one than ``before``."""
    connection = await asyncpg.connect(database)
    deadline = time.monotonic() + 90
    try:
        while time.monotonic() < deadline:
            found = await connection.fetchval("SELECT url FROM rollout.agent_waves WHERE job_id = $1", job_id)
            if found not in {None, before}:
                return str(found)
            await asyncio.sleep(0.3)
    finally:
        await connection.close()
    raise AssertionError("no process has the wave")


async def play(client: httpx.AsyncClient, episode: dict[str, Any], reward: float) -> httpx.Response:
    """Call the model in an episode, and reward it."""
    name = episode["episode"]
    body = {"model": episode["model"], "messages": [USER]}
    answer = await client.post(f"/episodes/{name}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return await client.post(f"/episodes/{name}/reward", json={"reward": reward})


async def test_a_process_hands_on_what_another_one_has_and_takes_over_when_it_is_killed(
    services: RealServices, both: dict[str, Rollout], database: str
) -> None:
    job_id = await begin(services)
    place = await place_of(job_id, database)
    here = both[place]
    (there,) = [each for url, each in both.items() if url != place]
    claimed = await post(there.client, f"/jobs/{job_id}/episodes", {"n": 2}, 200)
    first, second = claimed["episodes"]
    assert (await play(there.client, first, 1.0)).json()["reward"] == 1.0
    unknown = await there.client.post(f"/episodes/{second['episode']}/v1/chat/nothing", json={})
    assert unknown.status_code == 404
    wrong = await there.client.post(f"/episodes/{second['episode']}/v1/chat/completions", json={"model": 1})
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (422, "model")

    await asyncio.to_thread(here.process.kill)
    # Until the watchdog repeats the job's last event, nobody has the wave.
    assert await place_of(job_id, database, before=place) == there.process.url
    lost = await there.client.post(f"/episodes/{second['episode']}/reward", json={"reward": 1.0})
    assert lost.status_code in {404, 503}, lost.text
    left = 4
    while left:
        claimed = await post(there.client, f"/jobs/{job_id}/episodes", {"n": 4, "wait_seconds": 30}, 200)
        for episode in claimed["episodes"]:
            assert (await play(there.client, episode, float(left % 2))).status_code == 200
            left -= 1
    deadline = time.monotonic() + 120
    while (job := await get(there.client, f"/jobs/{job_id}"))["state"] in {"submitted", "running"}:
        assert time.monotonic() < deadline, job
        await asyncio.sleep(0.3)
    assert (job["state"], job["steps"][0]["episodes"]) == ("succeeded", {"ok": 4}), job["reason"]
