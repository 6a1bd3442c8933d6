"""What a job made of a file's rows is erased when the file is gone, on real Postgres, NATS and blobs."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from mint_common.blobs.localfs import LocalBlobs
from tests.integration.rollout.neighbours import Neighbours, Trainer
from tests.integration.rollout.process import show, until
from tests.integration.rollout.test_file_jobs import PLAN, named, stored
from tests.processes import ServiceProcess
from tests.testing.factories import TENANT
from tests.unit.rollout.file_jobs import completions, on_file

pytestmark = pytest.mark.integration


async def waves_left(folder: Path, *, at_most: int, seconds: float = 60.0) -> list[str]:
    """Return the keys of blobs of waves once there are so few."""
    deadline = time.monotonic() + seconds
    while True:
        keys = [key async for key in LocalBlobs(folder / "blobs").list("waves/")]
        if len(keys) <= at_most:
            return keys
        assert time.monotonic() < deadline, keys
        await asyncio.sleep(0.05)


async def test_nothing_of_a_deleted_file_is_left_when_training_needs_it_no_more(
    nats_url: str, rollout: ServiceProcess, client: httpx.AsyncClient, neighbours: Neighbours, tmp_path: Path
) -> None:
    trainer = Trainer()
    event = named(on_file(await stored(tmp_path, completions(16)), epochs=2, evaluation=PLAN), "job_gone")
    async with trainer.running(nats_url):
        await trainer.submit(event)
        await until(lambda: len(trainer.ends) == 1)
    made = await waves_left(tmp_path, at_most=99)
    assert len(made) == 2 * len(trainer.waves) + 1  # of each the rows and the record; the validation's record
    last = trainer.waves[-1].record.uri
    neighbours.needed = [last, "waves/of/another/1.rec"]
    answer = await client.delete(f"/internal/tenants/{TENANT}/files/file-1")
    assert answer.status_code == 204, answer.text
    rollout.kill()
    await asyncio.to_thread(rollout.start)
    assert await waves_left(tmp_path, at_most=1) == [last]
    rollout.kill()
    neighbours.needed = []
    await asyncio.to_thread(rollout.start)
    assert await waves_left(tmp_path, at_most=0) == []
    job = await show(client, event.job_id)
    assert (job["state"], job["step"]) == ("succeeded", len(trainer.waves))
