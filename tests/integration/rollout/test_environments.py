"""Environments in processes of their own: what they get, and that what each does stays its own."""

import asyncio
import contextlib
import math
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mint_common.errors import InvalidField, NotFound, Overloaded
from mint_common.ids import TenantId
from services.rollout.adapters.environments.pool import EnvironmentLimits
from services.rollout.adapters.environments.workers import (
    EnvironmentHost,
    WorkerEnvironments,
    open_environments,
)
from services.rollout.core.environment import EnvironmentFault, EnvironmentTask, EpisodeReport
from tests.integration.rollout.environment_rig import deeds, episode, install_deeds, open_door

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

TENANT = TenantId("ten_a")
LIMITS = EnvironmentLimits(workers=1, calls=16, memory_bytes=1 << 30)


class Rig:
    """Environments of a folder with a door; ``asked`` are the requests that came to it."""

    def __init__(self, folder: Path, environments: WorkerEnvironments, door: str, asked: list[Any]) -> None:
        self.folder = folder
        self.environments = environments
        self.door = door
        self.asked = asked

    async def run(self, spec: Any, row: int, name: str = "e1") -> EpisodeReport:
        """Run an episode of a row."""
        entry = f'{{"example_id": {row}, "prompt": [{{"role": "user", "content": "{row}"}}]}}'
        task = EnvironmentTask(key=str(row), entry=entry)
        call = episode(name, self.door)
        (report,) = await self.environments.run(spec, task, [call], tenant_id=TENANT)
        return report


@asynccontextmanager
async def opened(
    folder: Path, limits: EnvironmentLimits = LIMITS, *, is_confined: bool = True
) -> AsyncIterator[Rig]:
    """Open the environments of a folder."""
    with tempfile.TemporaryDirectory() as place:
        door = f"{place}/door.sock"
        async with open_door(Path(door)) as asked:
            host = EnvironmentHost(
                folder=folder, door=door, limits=limits, is_confined=is_confined, call_seconds=30.0
            )
            async with open_environments(host) as environments:
                yield Rig(folder, environments, door, asked)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the environment, which only its owner may pass, as a stack's."""
    stack = tmp_path_factory.mktemp("stack")
    stack.chmod(0o700)
    install_deeds(stack / "envs")
    return stack / "envs"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(folder: Path) -> AsyncIterator[Rig]:
    async with opened(folder) as rig:
        yield rig


async def test_an_episode_asks_its_own_door_and_reports_its_reward(rig: Rig) -> None:
    report = await rig.run(deeds(), 3, "token-a")
    assert report == EpisodeReport(reward=1.0, scores={"length": 1.0}, stop="answered")
    token, body = rig.asked[-1]
    assert (token, body["model"], body["temperature"], body["max_tokens"]) == ("token-a", "m", 0.7, 8)


async def test_a_description_counts_the_tasks_and_draws_are_repeatable(rig: Rig) -> None:
    info = await rig.environments.describe(deeds(), "train", tenant_id=TENANT)
    assert (info.tasks, info.by_group) == (5, False)
    assert info.description.startswith("Deeds: Rewards an answer")
    first, again, other = [
        await rig.environments.draw(deeds(), "train", 7, seed, tenant_id=TENANT) for seed in (1, 1, 2)
    ]
    assert first == again != other
    assert len({task.key for task in first[:5]}) == 5, "none comes again before all have come"


async def test_a_group_is_run_in_one_call_and_rewarded_together(rig: Rig) -> None:
    spec = deeds("group")
    assert (await rig.environments.describe(spec, "train", tenant_id=TENANT)).by_group
    (task,) = await rig.environments.draw(spec, "train", 1, 1, tenant_id=TENANT)
    calls = [episode(f"g{n}", rig.door) for n in range(3)]
    reports = await rig.environments.run(spec, task, calls, tenant_id=TENANT)
    assert [report.reward for report in reports] == [0.0, 1.0, 2.0]
    assert {token for token, _ in rig.asked[-3:]} == {"g0", "g1", "g2"}


@pytest.mark.parametrize(
    ("change", "split", "refusal"),
    [
        ({"id": "nothing"}, "train", "deeds"),
        ({"id": "../deeds"}, "train", "deeds"),
        ({"kind": "skyrl"}, "train", "environment.kind"),
        ({"args": {"wrong": 1}}, "train", "environment.args"),
        ({"args": {"deed": "x" * (17 << 20)}}, "train", "environment.args.*limit"),
        ({}, "nowhere", "environment.split"),
    ],
)
async def test_what_is_wrong_with_an_environment_is_named(
    rig: Rig, change: dict[str, Any], split: str, refusal: str
) -> None:
    spec = replace(deeds(), **change)
    with pytest.raises((InvalidField, NotFound), match=refusal):
        await rig.environments.describe(spec, split, tenant_id=TENANT)


@pytest.mark.parametrize(
    ("deed", "problem"),
    [
        ("fail", "RuntimeError: no reward today (deeds.py"),
        ("nan", "not JSON compliant"),
        ("allocate", "MemoryError"),
        ("fill_the_disk", "OSError"),
    ],
)
async def test_what_an_environment_raises_is_its_episodes_error(rig: Rig, deed: str, problem: str) -> None:
    spec = deeds(deed, of_rows=1)
    bad, good = await asyncio.gather(rig.run(spec, 0, "bad"), rig.run(spec, 1, "good"))
    assert bad.reward is None
    assert problem in bad.error
    assert good.reward == 1.0


async def test_a_reward_beyond_its_bound_is_a_fault_of_the_environment(rig: Rig) -> None:
    with pytest.raises(EnvironmentFault, match="beyond") as fault:
        await rig.run(deeds("huge"), 0)
    assert fault.value.whose == "environment"


async def test_a_gigabyte_of_output_goes_nowhere(rig: Rig) -> None:
    assert (await rig.run(deeds("write"), 0)).reward == 1.0


async def test_a_worker_finds_no_secret_of_the_host(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "internal_token"
    secret.write_text("the-secret")
    secret.chmod(0o600)
    monkeypatch.setenv("MINT_POSTGRES_DSN", "the-secret")
    monkeypatch.setenv("OTHER", "the-secret")
    places = [str(secret), f"/proc/{os.getpid()}/environ", "/etc/shadow"]
    assert (await rig.run(deeds("search", secrets=places), 0)).reward == 0.0
    async with opened(rig.folder, is_confined=False) as loose:
        assert (await loose.run(deeds("search", secrets=places), 0)).reward > 0, "it does search"


async def test_the_hosts_loopback_is_out_of_reach(rig: Rig) -> None:
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await rig.run(deeds("connect", port=port), 0)).reward == 1.0


async def test_an_environment_with_the_network_reaches_it_and_no_process(tmp_path: Path) -> None:
    install_deeds(tmp_path, network=True)
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    async with server, opened(tmp_path) as rig:
        port = server.sockets[0].getsockname()[1]
        assert (await rig.run(deeds("connect", port=port), 0)).reward == -1.0
        search = deeds("search", secrets=[f"/proc/{os.getpid()}/environ"])
        assert (await rig.run(search, 0)).reward == 0.0


async def test_an_episode_that_waits_too_long_ends_alone(rig: Rig) -> None:
    spec = deeds("wait", seconds=1.0, of_rows=1)
    late, good = await asyncio.gather(rig.run(spec, 0, "late"), rig.run(spec, 1), return_exceptions=True)
    assert isinstance(late, EnvironmentFault)
    assert late.whose == "environment"
    assert isinstance(good, EpisodeReport)
    assert good.reward == 1.0


async def test_a_crash_is_repeated_alone_and_then_is_the_episodes_own(rig: Rig) -> None:
    spec = deeds("exit", of_rows=1)
    together = [rig.run(spec, 0, "crash"), *(rig.run(deeds("wait"), row, f"w{row}") for row in (1, 2))]
    faults = await asyncio.gather(*together, return_exceptions=True)
    assert [getattr(fault, "whose", None) for fault in faults] == ["infrastructure"] * 3
    assert (await rig.run(deeds(), 2, "w2")).reward == 1.0, "one that was beside it is repeated"
    with pytest.raises(EnvironmentFault, match="ended with status 3") as fault:
        await rig.run(spec, 0, "crash")
    assert fault.value.whose == "environment"


async def test_code_that_hangs_ends_its_worker_and_others_repeat_theirs(rig: Rig) -> None:
    hung = asyncio.create_task(rig.run(deeds("hang", seconds=1.0), 0, "hung"))
    await asyncio.sleep(0.5)
    beside = asyncio.create_task(rig.run(deeds("wait", seconds=30.0), 1, "beside"))
    began = time.monotonic()
    faults = await asyncio.gather(hung, beside, return_exceptions=True)
    assert [getattr(fault, "whose", None) for fault in faults] == ["environment", "infrastructure"]
    assert time.monotonic() - began < 10
    assert (await rig.run(deeds(), 1, "beside")).reward == 1.0


async def test_processes_are_bounded_in_number_and_in_memory_together(folder: Path) -> None:
    limits = EnvironmentLimits(workers=1, calls=16, memory_bytes=300 << 20)
    async with opened(folder, limits) as small:
        with pytest.raises(EnvironmentFault, match="more than 300 MiB") as fault:
            await small.run(deeds("grow"), 0, "grow")
        assert fault.value.whose == "environment"
        with contextlib.suppress(EnvironmentFault):  # as soon as they are counted
            forked = await small.run(deeds("fork"), 0, "fork")
            assert forked.reward is None or 100 < forked.reward < 1100
        async with asyncio.timeout(10):  # its worker is replaced
            while (await small.run(deeds(), 1)).reward != 1.0:
                await asyncio.sleep(0.2)


async def test_an_environment_that_cannot_be_confined_runs_where_the_operator_allows_it(folder: Path) -> None:
    async with opened(folder, is_confined=False) as loose:
        assert (await loose.run(deeds(), 1)).reward == 1.0


async def test_an_environment_that_was_removed_is_a_fault_of_itself(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "deeds").symlink_to(folder / "deeds")
    async with opened(tmp_path) as rig:
        assert (await rig.run(deeds(), 1)).reward == 1.0
        (tmp_path / "deeds").unlink()
        with pytest.raises(EnvironmentFault, match="No environment") as fault:
            await rig.run(deeds(), 1)
        assert fault.value.whose == "environment"


async def test_many_episodes_wait_for_a_few_places_and_tenants_take_turns(folder: Path) -> None:
    ended: list[str] = []
    async with opened(folder, EnvironmentLimits(workers=2, calls=2, memory_bytes=1 << 30)) as rig:
        tasks = await rig.environments.draw(deeds(), "train", 60, 1, tenant_id=TENANT)

        async def run(tenant: str, number: int) -> None:
            call = episode(f"{tenant}{number}", rig.door)
            await rig.environments.run(deeds(), tasks[number], [call], tenant_id=TenantId(tenant))
            ended.append(tenant)

        await rig.run(deeds(), 1)
        async with asyncio.TaskGroup() as group:
            for number in range(60):
                group.create_task(run("ten_many", number))
            for number in range(5):
                group.create_task(run("ten_few", number))
    assert len(ended) == 65
    assert "ten_few" not in ended[45:], "few do not wait for many"


async def test_a_description_does_not_wait_for_episodes(folder: Path) -> None:
    async with opened(folder, EnvironmentLimits(workers=1, calls=2, memory_bytes=1 << 30)) as rig:
        waiting = [asyncio.create_task(rig.run(deeds("wait"), 1, f"w{n}")) for n in range(4)]
        async with asyncio.timeout(10):
            await rig.environments.describe(deeds(), "train", tenant_id=TENANT)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_tenant_that_describes_much_waits_for_itself(folder: Path) -> None:
    async with opened(folder) as rig:
        await rig.environments.describe(deeds(), "train", tenant_id=TENANT)
        many = [deeds("slow_to_load", seconds=20.0, port=n) for n in range(40)]
        asked = [
            asyncio.create_task(rig.environments.describe(each, "train", tenant_id=TENANT)) for each in many
        ]
        await asyncio.sleep(0.2)
        refused = [each for each in asked if each.done()]
        assert len(refused) == 40 - 32
        assert all(isinstance(each.exception(), Overloaded) for each in refused)
        async with asyncio.timeout(8):
            await rig.environments.draw(deeds(), "train", 2, 1, tenant_id=TenantId("ten_b"))
            await rig.environments.describe(deeds(port=7), "train", tenant_id=TenantId("ten_b"))
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def test_a_python_behind_links_is_found(tmp_path: Path) -> None:
    named = tmp_path / "python-3"
    named.symlink_to(sys.base_prefix)
    install_deeds(tmp_path, python=str(named / "bin/python3"))
    assert str(named) in (tmp_path / "deeds/.venv/pyvenv.cfg").read_text()
    async with opened(tmp_path) as rig:
        assert (await rig.run(deeds(), 1)).reward == 1.0


async def test_a_worker_that_leaks_is_replaced_between_episodes(folder: Path) -> None:
    async with opened(folder) as rig:
        assert (await rig.run(deeds(), 1)).reward == 1.0
        (running,) = rig.environments._running.values()
        held = running.pool._held
        first = held[0]
        async with asyncio.timeout(20):
            while first.first_use[0] == math.inf:  # until what it needs is known
                await asyncio.sleep(0.1)
            assert (await rig.run(deeds("leak"), 0)).reward == 1.0
            while first in held:
                await asyncio.sleep(0.1)
        assert (await rig.run(deeds(), 1)).reward == 1.0
