"""The rollout service as a process, and what tests ask it."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from mint_common.blobs.marker import KEY
from mint_common.ids import JobId, new_id
from services.standalone.adapters.launch import free_port
from tests.integration.rollout.neighbours import TOKEN, Neighbours
from tests.processes import ServiceProcess
from tests.testing.factories import JOB, TENANT


def make_rollout(folder: Path, *, nats_url: str, dsn: str, neighbours: Neighbours) -> ServiceProcess:
    blobs = folder / "blobs"
    blobs.mkdir(exist_ok=True)
    (blobs / KEY).write_text(new_id("store"))  # as the registry does
    environ = {
        "MINT_NATS_URL": nats_url,
        "MINT_POSTGRES_DSN": dsn,
        "MINT_BLOBS_URL": f"file://{blobs}",
        "MINT_INTERNAL_TOKEN": TOKEN,
        "MINT_PEERS_REGISTRY_URL": neighbours.url,
        "MINT_PEERS_LOADER_URLS": neighbours.url,
        "MINT_PEERS_TRAINER_URLS": neighbours.url,
        "MINT_ROLLOUT_HTTP_PORT": str(free_port()),
        "MINT_ROLLOUT_STALL_SECONDS": "2",
        "OMP_NUM_THREADS": "1",
    }
    return ServiceProcess("rollout", environ, folder / "rollout.log")


async def until(condition: Callable[[], bool], *, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.02)


async def show(client: httpx.AsyncClient, job_id: JobId = JOB) -> dict[str, object]:
    answer = await client.get(f"/internal/tenants/{TENANT}/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    job: dict[str, object] = answer.json()
    return job
