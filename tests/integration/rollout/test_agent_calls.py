"""The routes of agents on two processes of rollout that share their tables: either answers for the other."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest
import uvicorn
from contract.schemas import empty_schema

from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.events import WaveRequested
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.edge import create_http
from mint_common.runtime.own_address import own_url
from services.rollout.adapters.agent_waves_postgres import PostgresAgentWaves
from services.rollout.adapters.siblings import Siblings
from services.rollout.handlers.agent_calls import AgentCalls
from services.rollout.handlers.agents import Agents
from services.rollout.http import agents as routes
from services.rollout.http.door import MAX_BODY_BYTES, DoorCalls
from tests.testing.factories import JOB, TENANT
from tests.unit.rollout.test_agents import World, make_world
from tests.unit.rollout.world import tokens_of

pytestmark = pytest.mark.integration

TOKEN = "internal"


@asynccontextmanager
async def process(world: World, pool: asyncpg.Pool, jobs: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve a process's routes; yield a client that asks them as a gateway does."""
    http = create_http(title="rollout", service="rollout", internal_token=TOKEN, ready=lambda: True)
    http.include_router(routes.router)
    listening = socket.create_server(("127.0.0.1", 0))
    url = own_url("127.0.0.1", listening.getsockname()[1], towards="http://unused")
    siblings, clock = Siblings(token=TOKEN), SystemClock()
    http.state.parts = SimpleNamespace(
        jobs=jobs,
        trainers=TrainerDirectory([], token="none"),
        agents=AgentCalls(
            agents=world.agents,
            door=world.door,
            jobs=jobs,
            waves=PostgresAgentWaves(pool, clock, url=url),
            siblings=siblings,
            clock=clock,
        ),
        door_calls=DoorCalls(),
    )
    server = uvicorn.Server(uvicorn.Config(http, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    headers = {"x-mint-internal-token": TOKEN}
    root = f"{url}/internal/tenants/{TENANT}"
    try:
        async with httpx.AsyncClient(base_url=root, headers=headers, timeout=30) as client:
            yield client
    finally:
        await siblings.close()
        server.should_exit = True
        await serving


@pytest.fixture
async def both(database: str) -> AsyncIterator[tuple[World, httpx.AsyncClient, httpx.AsyncClient]]:
    """Return a rollout service with a job, a client of its process, and one of a process without the wave."""
    here, there = make_world(), make_world()
    there.agents = Agents(SystemClock())  # nobody turns the other clock
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(empty_schema(database, "rollout"))
        first = await stack.enter_async_context(process(here, pool, here.rig.jobs))
        second = await stack.enter_async_context(process(there, pool, here.rig.jobs))
        yield here, first, second
        for task in list(here.rig.of_waves._apart):
            task.cancel()


async def posted(client: httpx.AsyncClient, path: str, body: Any, status: int = 200) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_an_agent_may_ask_either_process(
    both: tuple[World, httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    world, *clients = both
    wave: WaveRequested = await world.begin()
    claimed: list[Any] = []
    for client in clients:
        told = await posted(client, f"/jobs/{JOB}/episodes", {"n": 4})
        assert (told["args"], told["state"], told["is_ended"]) == ({"level": 2}, "running", False)
        claimed += told["episodes"]
    assert len({each["episode"] for each in claimed}) == 8
    none = await posted(clients[1], f"/jobs/{JOB}/episodes", {"n": 4, "wait_seconds": 0})
    assert none["episodes"] == []
    for number, episode in enumerate(claimed):
        client, other, name = clients[number % 2], clients[(number + 1) % 2], episode["episode"]
        body = {"token_ids": tokens_of("1?")}
        answer = await posted(client, f"/episodes/{name}/inference/v1/generate", body)
        assert answer["choices"][0]["token_ids"]
        answer = (await client.get(f"/episodes/{name}/v1/models")).json()
        assert answer["data"][0]["id"] == episode["model"]
        wrong = await posted(client, f"/episodes/{name}/inference/v1/generate", {"token_ids": []}, 422)
        assert wrong["error"]["field"] == "token_ids"
        assert (await posted(other, f"/episodes/{name}/v1/embeddings", {}, 404))["error"][
            "code"
        ] == "not_found"
        reward = {"reward": float(number % 2), "scores": {"number": number}}
        assert (await posted(other, f"/episodes/{name}/reward", reward))["reward"] == number % 2
        assert (await posted(client, f"/episodes/{name}/reward", reward))["reward"] == number % 2
        second = await posted(other, f"/episodes/{name}/reward", {"reward": 7.0}, 422)
        assert second["error"]["field"] == "reward"
    fact = await world.led_to(wave)
    assert fact.reward_mean == 0.5


async def test_what_is_not_here_is_said_at_once(
    both: tuple[World, httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    world, first, second = both
    await world.begin()
    (episode,) = (await posted(first, f"/jobs/{JOB}/episodes", {}))["episodes"]
    for client in (first, second):
        for name in ("ep_a_b", "nothing", episode["episode"] + "0"):
            told = await posted(client, f"/episodes/{name}/reward", {"reward": 1.0}, 404)
            assert told["error"]["code"] == "episode_over"
        large = b" " * (MAX_BODY_BYTES + 1)
        path = f"/episodes/{episode['episode']}/inference/v1/generate"
        assert (await client.post(path, content=large)).status_code == 413
    strange = str(first.base_url).replace(TENANT, "ten_other")
    answer = await first.post(f"{strange}episodes/{episode['episode']}/reward", json={"reward": 1.0})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "episode_over")
    answer = await first.post(f"{strange}jobs/{JOB}/episodes", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    await world.rig.commits.cancel(JOB)
    told = await posted(second, f"/jobs/{JOB}/episodes", {"wait_seconds": 30})
    assert (told["is_ended"], told["state"]) == (True, "cancelled")


async def test_a_claim_waits_for_the_next_episode_and_the_job_says_that_it_waits(
    both: tuple[World, httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    world, first, second = both
    await world.begin()
    await posted(first, f"/jobs/{JOB}/episodes", {"n": 8})
    waiting = asyncio.create_task(posted(second, f"/jobs/{JOB}/episodes", {"wait_seconds": 30}))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await world.rig.clock.advance(61.0)  # the agent that has them is silent
    (found,) = (await waiting)["episodes"]
    assert found["step"] == 1


def test_the_address_of_a_process_is_one_that_others_reach() -> None:
    assert own_url("127.0.0.1", 8103, towards="http://registry:8101") == "http://127.0.0.1:8103"
    assert own_url("0.0.0.0", 8103, towards="http://127.0.0.1:8101") == "http://127.0.0.1:8103"
    assert own_url("::", 8103, towards="http://[::1]:8101") in {"http://[::1]:8103", "http://127.0.0.1:8103"}
    assert Agents(SystemClock()).waves() == []
