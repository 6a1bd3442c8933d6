"""A rollout process with its neighbours, for each test its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.rollout.neighbours import TOKEN, Neighbours
from tests.integration.rollout.process import make_rollout
from tests.processes import ServiceProcess


@pytest.fixture
def neighbours() -> Iterator[Neighbours]:
    with Neighbours() as neighbours:
        yield neighbours


@pytest.fixture
def rollout(tmp_path: Path, nats_url: str, database: str, neighbours: Neighbours) -> Iterator[ServiceProcess]:
    rollout = make_rollout(tmp_path, nats_url=nats_url, dsn=database, neighbours=neighbours)
    rollout.start()
    yield rollout
    if rollout.is_running:
        rollout.kill()


@pytest.fixture
async def client(rollout: ServiceProcess) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"x-mint-internal-token": TOKEN}
    async with httpx.AsyncClient(base_url=rollout.url, headers=headers, trust_env=False) as client:
        yield client
