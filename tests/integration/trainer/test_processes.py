"""The trainer as a process beside a real registry: it registers, answers HTTP, and survives kill -9."""

import asyncio
from pathlib import Path

import pytest

from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.events import RevisionExported
from tests.processes import ServiceProcess

from .conftest import Stage
from .test_waves import trained

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

WAVES = 6


async def test_kill_9_loses_and_repeats_nothing(
    stage: Stage, environ: dict[str, str], tmp_path: Path
) -> None:
    async with stage.trainer():
        for step in range(1, WAVES + 1):
            await stage.publish(await stage.wave(step, policy="policy_calm"))
        calm = [event.digest for event in await stage.exported(WAVES)]

    async with ServiceProcess("registry", environ, tmp_path / "registry.log").running():
        for first, last in ((1, 2), (3, 4)):
            async with ServiceProcess("trainer", environ, tmp_path / "trainer.log").running() as child:
                for step in range(first, last + 1):
                    await _settled(stage, step - 1)
                    await stage.publish(await stage.wave(step, policy="policy_killed"))
                await asyncio.sleep(0.03 * first)  # the step of the last wave is under way, or just over
                child.kill()
        async with ServiceProcess("trainer", environ, tmp_path / "trainer.log").running():
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
