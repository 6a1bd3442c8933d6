"""A trainer of two ranks: it trains, and when one is killed in the middle of a step, the step is done again.

The restart is a supervisor's (`mint up`, compose, Kubernetes), or torchrun's.
"""

import asyncio
import time
from pathlib import Path

import psutil
import pytest

from mint_common.events import RevisionExported
from services.trainer.adapters.distributed.group import GRACE_SECONDS
from tests.processes import ServiceProcess, until_ended

from .conftest import Stage

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

STEPS = 3
# A step may wait for a group of ranks to start again, each of which imports torch.
RESTART_SECONDS = 240.0


async def digests(stage: Stage, policy: str, *, upto: int) -> list[str]:
    """Wait for a policy's steps and return their digests in order."""

    def found() -> dict[int, str]:
        return {
            event.step: event.digest
            for event in stage.seen
            if isinstance(event, RevisionExported) and event.policy_id == policy
        }

    async with asyncio.timeout(RESTART_SECONDS), stage.news:
        await stage.news.wait_for(lambda: len(found()) >= upto)
    return [digest for _, digest in sorted(found().items())]


def other_rank(pid: int) -> psutil.Process:
    """Return the process of rank 1."""
    (child,) = psutil.Process(pid).children()
    return child


async def stop_in_step(stage: Stage, rank: psutil.Process, *, step: int) -> None:
    """Stop a rank and let a wave come: once it is taken in, rank 0 computes, and cannot end that alone."""
    rank.suspend()
    await stage.publish(await stage.wave(step, policy="policy_killed"))
    waiting = "SELECT 1 FROM trainer.operations WHERE kind = 'wave_pass' AND finished_at IS NULL"
    async with asyncio.timeout(RESTART_SECONDS):
        while not await stage.rows(waiting):
            await asyncio.sleep(0.02)
    assert not any(isinstance(event, RevisionExported) and event.step == step for event in stage.seen)


@pytest.fixture
def spread(environ: dict[str, str]) -> dict[str, str]:
    """Two ranks."""
    return {**environ, "MINT_TRAINER_RANKS": "2", "MINT_TRAINER_SHARDING": "fsdp"}


@pytest.mark.slow
async def test_a_rank_killed_in_a_step_ends_the_trainer_and_the_step_is_done_again(
    stage: Stage, environ: dict[str, str], spread: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "trainer.log"
    async with ServiceProcess("registry", environ, tmp_path / "registry.log").running():
        async with ServiceProcess("trainer", spread, log).running() as trainer:
            await stage.publish(await stage.wave(1, policy="policy_killed"))
            await digests(stage, "policy_killed", upto=1)
            rank = other_rank(trainer.pid)
            await stop_in_step(stage, rank, step=2)
            started = time.monotonic()
            rank.kill()
            assert await asyncio.to_thread(trainer.wait, 2 * GRACE_SECONDS) == 1
            assert time.monotonic() - started < GRACE_SECONDS
        async with ServiceProcess("trainer", spread, log).running() as trainer:
            await digests(stage, "policy_killed", upto=2)
            await stage.publish(await stage.wave(3, policy="policy_killed"))
            killed = await digests(stage, "policy_killed", upto=STEPS)
            for step in range(1, STEPS + 1):
                await stage.publish(await stage.wave(step, policy="policy_calm"))
            calm = await digests(stage, "policy_calm", upto=STEPS)
            rank = other_rank(trainer.pid)
        await until_ended([rank])
    assert killed == calm
    assert "rank lost" in log.read_text()


@pytest.mark.slow
async def test_torchrun_starts_the_group_again_when_a_rank_is_killed(
    stage: Stage, environ: dict[str, str], tmp_path: Path
) -> None:
    spread = {**environ, "MINT_TRAINER_SHARDING": "zero3"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2", "-m"]
    log = tmp_path / "trainer.log"
    async with (
        ServiceProcess("registry", environ, tmp_path / "registry.log").running(),
        ServiceProcess("trainer", spread, log, launch=launch).running() as agent,
    ):
        await stage.publish(await stage.wave(1, policy="policy_killed"))
        await digests(stage, "policy_killed", upto=1)
        ranks = {one.environ()["RANK"]: one for one in psutil.Process(agent.pid).children()}
        await stop_in_step(stage, ranks["1"], step=2)
        ranks["1"].kill()
        await digests(stage, "policy_killed", upto=2)
        again = {one.environ()["RANK"]: one for one in psutil.Process(agent.pid).children()}
        again["0"].kill()
        await stage.publish(await stage.wave(3, policy="policy_killed"))
        killed = await digests(stage, "policy_killed", upto=STEPS)
        for step in range(1, STEPS + 1):
            await stage.publish(await stage.wave(step, policy="policy_calm"))
        assert await digests(stage, "policy_calm", upto=STEPS) == killed


@pytest.mark.slow
async def test_a_rank_that_hangs_ends_the_trainer(
    stage: Stage, environ: dict[str, str], spread: dict[str, str], tmp_path: Path
) -> None:
    timeout_seconds = 60  # it bounds the start too, which a busy machine makes slow
    spread["MINT_TRAINER_RANK_TIMEOUT_SECONDS"] = str(timeout_seconds)
    async with (
        ServiceProcess("registry", environ, tmp_path / "registry.log").running(),
        ServiceProcess("trainer", spread, tmp_path / "trainer.log").running() as trainer,
    ):
        rank = other_rank(trainer.pid)
        started = time.monotonic()
        await stop_in_step(stage, rank, step=1)
        assert await asyncio.to_thread(trainer.wait, timeout_seconds + 2 * GRACE_SECONDS) == 1
        assert time.monotonic() - started < timeout_seconds + GRACE_SECONDS
        await until_ended([rank])
