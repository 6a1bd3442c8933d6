"""Environments that are a URL: what its server is asked, and what its answers mean."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI, Request, Response
from http_servers import make_server

from mint_common.errors import InvalidField
from mint_common.events import EnvironmentSpec
from mint_common.ids import TenantId
from services.rollout.adapters.environments.pool import EnvironmentLimits
from services.rollout.adapters.environments.workers import EnvironmentHost, open_environments
from services.rollout.core.environment import EnvironmentFault, EpisodeReport
from services.rollout.core.installed_environment import MANIFEST, InstalledEnvironment
from tests.integration.rollout.environment_rig import deeds, episode, open_door

pytestmark = pytest.mark.integration

TENANT = TenantId("ten_a")
ROWS = [{"prompt": [{"role": "user", "content": str(n)}], "reference": str(n)} for n in range(3)]
SPEC = replace(deeds(), kind="http", id="judge", args={"rows": ROWS})
LIMITS = EnvironmentLimits(workers=1, calls=1, memory_bytes=1 << 30)


class Judge:
    """A server that gives its answers one after another, the last of them for ever."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []
        self.http = FastAPI()
        self.http.post("/score")(self._score)

    async def _score(self, request: Request) -> Response:
        self.asked.append(await request.json())
        status, answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Response(msgspec.json.encode(answer), status, media_type="application/json")


@asynccontextmanager
async def run_by(judge: Judge, folder: Path, spec: EnvironmentSpec = SPEC) -> AsyncIterator[EpisodeReport]:
    """Run an episode of the first of one draw, rewarded by a judge."""
    server = make_server(judge.http)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    manifest = InstalledEnvironment(
        kind="http",
        name="judge",
        package="",
        requirement="",
        entry="",
        python="",
        versions=(),
        sha256="0" * 64,
        url=f"http://127.0.0.1:{port}/score",
    )
    (folder / "judge").mkdir()
    (folder / "judge" / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    door = folder / "door"
    host = EnvironmentHost(folder=folder, door=str(door), limits=LIMITS, is_confined=True)
    try:
        async with open_door(door), open_environments(host) as environments:
            info = await environments.describe(spec, "train", tenant_id=TENANT)
            assert (info.tasks, info.by_group) == (3, False)
            (task,) = await environments.draw(spec, "train", 1, 1, tenant_id=TENANT)
            call = episode("e1", str(door))
            (report,) = await environments.run(spec, task, [call], tenant_id=TENANT)
            yield report
    finally:
        server.should_exit = True
        await serving


async def test_the_url_gets_what_the_model_said_and_its_number_is_the_reward(tmp_path: Path) -> None:
    judge = Judge((503, {}), (200, {"rewards": [0.25]}))
    async with run_by(judge, tmp_path) as report:
        assert report == EpisodeReport(reward=0.25)
    first, again = judge.asked
    assert first == again, "an item that is sent again has the same id"
    (item,) = first["items"]
    assert item["id"] == "e1"
    assert item["completion"] == item["reference"] == item["prompt"][0]["content"]


async def test_a_url_that_refuses_or_answers_nonsense_gives_no_reward(tmp_path: Path) -> None:
    for number, answer in enumerate(
        ((404, {}), (200, {}), (200, {"rewards": []}), (200, {"rewards": [1e9]}))
    ):
        place = tmp_path / str(number)
        place.mkdir()
        async with run_by(Judge(answer), place) as report:
            assert report.reward is None
            assert report.error


async def test_a_server_that_stays_away_is_a_fault_of_the_infrastructure(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="away: it answers 500") as fault:
        async with run_by(Judge((500, {})), tmp_path):
            pass
    assert fault.value.whose == "infrastructure"


@pytest.mark.parametrize(
    "args", [{}, {"rows": []}, {"rows": [{"prompt": "text"}]}, {"rows": ROWS, "url": "x"}]
)
async def test_wrong_arguments_are_refused(tmp_path: Path, args: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match=r"environment\.args"):
        async with run_by(Judge((200, {})), tmp_path, replace(SPEC, args=args)):
            pass
