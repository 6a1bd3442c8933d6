"""The trainer as a process beside a real registry: it registers, answers HTTP, and survives kill -9."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.events import RevisionExported

from .conftest import Stage
from .test_waves import trained

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

WAVES = 6
READY_SECONDS = 180.0


@asynccontextmanager
async def process(
    service: str, environ: dict[str, str], log: Path, *, launch: Sequence[str] = ("-m",)
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run a service until the block ends; the block starts when it is ready."""
    address = f"http://127.0.0.1:{environ[f'MINT_{service.upper()}_HTTP_PORT']}"
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, *launch, f"services.{service}"],
            env={**os.environ, **environ},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        async with httpx.AsyncClient() as client, asyncio.timeout(READY_SECONDS):
            while not await _is_ready(client, address):
                assert child.poll() is None, log.read_text()[-3000:]
                await asyncio.sleep(0.05)
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        await asyncio.to_thread(child.wait, 30)


async def _is_ready(client: httpx.AsyncClient, address: str) -> bool:
    try:
        return (await client.get(f"{address}/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def test_kill_9_loses_and_repeats_nothing(
    stage: Stage, environ: dict[str, str], tmp_path: Path
) -> None:
    async with stage.trainer():
        for step in range(1, WAVES + 1):
            await stage.publish(await stage.wave(step, policy="policy_calm"))
        calm = [event.digest for event in await stage.exported(WAVES)]

    async with process("registry", environ, tmp_path / "registry.log"):
        for first, last in ((1, 2), (3, 4)):
            async with process("trainer", environ, tmp_path / "trainer.log") as child:
                for step in range(first, last + 1):
                    await _settled(stage, step - 1)
                    await stage.publish(await stage.wave(step, policy="policy_killed"))
                await asyncio.sleep(0.03 * first)  # the step of the last wave is under way, or just over
                child.kill()
        async with process("trainer", environ, tmp_path / "trainer.log"):
            for step in range(5, WAVES + 1):
                await _settled(stage, step - 1)
                await stage.publish(await stage.wave(step, policy="policy_killed"))
            await _settled(stage, WAVES)
            sessions = InternalHttp(f"http://127.0.0.1:{environ['MINT_TRAINER_HTTP_PORT']}", token="secret")
            answer = await sessions.get("/internal/sessions")
            await sessions.close()
            registry = InternalHttp(environ["MINT_PEERS_REGISTRY_URL"], token="secret")
            bases = await RegistryClient(registry).list_bases()
            await registry.close()

    exported = [e for e in stage.seen if isinstance(e, RevisionExported) and e.policy_id == "policy_killed"]
    by_step = {event.step: event.digest for event in exported}
    assert [by_step[step] for step in sorted(by_step)] == calm
    assert len({event.id for event in exported}) == WAVES
    assert await trained(stage) == [(WAVES, WAVES, 3 * WAVES)] * 2
    assert [base.name for base in bases] == ["tiny"]
    assert isinstance(answer, dict)
    assert [session["step"] for session in answer["sessions"]] == [WAVES, WAVES]


async def _settled(stage: Stage, step: int) -> None:
    """Wait for the export of a step; repeats of earlier ones may come in between."""
    async with asyncio.timeout(60), stage.news:
        await stage.news.wait_for(
            lambda: (
                step == 0
                or any(
                    isinstance(event, RevisionExported)
                    and (event.policy_id, event.step) == ("policy_killed", step)
                    for event in stage.seen
                )
            )
        )
