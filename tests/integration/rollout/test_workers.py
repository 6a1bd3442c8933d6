"""The processes that run the code of tasks."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import httpx
import psutil
import pytest
import pytest_asyncio
from contract.schemas import empty_schema

from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import InvalidField, NotFound, Overloaded, TaskFailed, TaskLeftOut
from mint_common.graders import Grade, GraderFault
from mint_common.ids import TenantId
from mint_common.runtime.edge import create_http
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.adapters.tasks.catalog import InstalledTasks, installed_families
from services.rollout.adapters.workers import tasks as worker_tasks
from services.rollout.adapters.workers.pool import WorkerLimits
from services.rollout.adapters.workers.tasks import BoundedTasks, WorkerTasks, open_tasks
from services.rollout.handlers.task_scores import TaskScores
from services.rollout.http.jobs import job_routes
from services.rollout.http.tasks import task_routes
from tests.processes import until_ended
from tests.testing.factories import TENANT

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

FAMILIES = {
    **installed_families(),
    "slow": "tests.integration.rollout.slow_tasks:Slow",
    "gone": "tests.integration.rollout.no_such_module:Task",
}
LIMITS = WorkerLimits(workers=2, call_seconds=60.0, memory_bytes=2 << 30)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tasks() -> AsyncIterator[WorkerTasks]:
    """A pool that outlives what is done to its workers."""
    async with open_tasks(FAMILIES, LIMITS) as tasks:
        yield tasks


@pytest_asyncio.fixture(loop_scope="module")
async def hasty_tasks() -> AsyncIterator[WorkerTasks]:
    """Tasks that have two seconds for a call."""
    async with open_tasks(FAMILIES, replace(LIMITS, call_seconds=2.0)) as tasks:
        yield tasks


async def pid_of(tasks: WorkerTasks) -> int:
    """Return the process that answers next."""
    (prompt,) = await tasks.draw("slow:quick", "train", 1, 0, tenant_id=TENANT)
    return int(prompt.text)


async def test_prompts_and_rewards_are_those_of_the_task_itself(tasks: WorkerTasks) -> None:
    local = InstalledTasks(installed_families())
    for name in ("progression", "mode:sort", "reasoning-gym:chain_sum"):
        for seed in (0, 7, 2**53):
            prompts = await tasks.draw(name, "train", 16, seed, tenant_id=TENANT)
            assert prompts == local.task(name).prompts("train", 16, seed)
        answers = [(prompt.entry, prompt.reference) for prompt in prompts]
        assert await tasks.score(name, [*answers, (prompts[0].entry, "wrong")], tenant_id=TENANT) == [
            1.0
        ] * 16 + [0.0]
    assert await tasks.describe("mode:copy") in await tasks.describe_all()
    names = [info.name for info in await tasks.describe_all()]
    assert names == sorted(names)
    assert not [name for name in names if name.startswith("gone")]


async def test_errors_come_back_as_they_were_raised(tasks: WorkerTasks) -> None:
    with pytest.raises(NotFound) as caught:
        await tasks.draw("mode:cpy", "train", 1, 0, tenant_id=TENANT)
    assert "mode:copy" in str(caught.value.fields["near"])
    with pytest.raises(TaskLeftOut, match="C compiler"):
        await tasks.describe("reasoning-gym:zebra_puzzles")
    with pytest.raises(TaskFailed, match=r"gone.*ModuleNotFoundError"):
        await tasks.draw("gone", "train", 1, 0, tenant_id=TENANT)
    with pytest.raises(InvalidField, match="surrogates"):
        await tasks.score("progression", [("47", "\ud800")], tenant_id=TENANT)


async def test_a_call_that_takes_too_long_is_cut_and_named(hasty_tasks: WorkerTasks) -> None:
    tasks = hasty_tasks
    before = [psutil.Process(await pid_of(tasks))]
    began = time.monotonic()
    with pytest.raises(TaskFailed, match=r"'slow:slow' failed: drawing 60 prompts took more than 2 s"):
        await tasks.draw("slow:slow", "train", 60, 0, tenant_id=TENANT)
    with pytest.raises(TaskFailed, match=r"'slow:quick' failed: scoring 2 texts took more than 2 s"):
        await tasks.score("slow:quick", [("0", "1"), ("60", "1")], tenant_id=TENANT)
    assert time.monotonic() - began < 40
    await until_ended(before)
    assert await pid_of(tasks) not in {each.pid for each in before}


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        ("crash", f"its process was ended by signal {signal.SIGSEGV:d}, twice"),
        ("exit", "its process ended by itself, twice"),
        ("huge", "its answer has .* bytes, the limit is 33554432: ask for less at once"),
        ("memory", "MemoryError"),
        ("odd", "its answer is unreadable: .*text"),
        ("unsendable", "its answer cannot be sent: .*object"),
    ],
)
async def test_what_a_task_does_to_its_process_is_an_error_of_that_task(
    tasks: WorkerTasks, member: str, problem: str
) -> None:
    with pytest.raises(TaskFailed, match=f"'slow:{member}' failed: {problem}"):
        await tasks.draw(f"slow:{member}", "train", 40, 0, tenant_id=TENANT)
    assert len(await tasks.draw("mode:copy", "train", 4, 0, tenant_id=TENANT)) == 4


async def test_a_worker_that_was_killed_while_idle_costs_its_next_caller_nothing(tasks: WorkerTasks) -> None:
    for _ in range(3):
        os.kill(await pid_of(tasks), signal.SIGKILL)
        assert len(await tasks.draw("mode:copy", "train", 4, 0, tenant_id=TENANT)) == 4


async def test_a_tenant_whose_verifier_hangs_holds_up_no_other_tenant(tasks: WorkerTasks) -> None:
    flood = TenantId("ten_flood")
    hanging = [
        asyncio.create_task(tasks.score("slow:quick", [("60", "1")], tenant_id=flood)) for _ in range(64)
    ]
    await asyncio.sleep(0.2)
    async with asyncio.timeout(20):
        scoring = [tasks.score("slow:quick", [("0", "1")] * 8, tenant_id=TENANT) for _ in range(32)]
        assert await asyncio.gather(*scoring) == [[1.0] * 8] * 32
    assert not any(task.done() for task in hanging)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_an_answer_that_its_verifier_hangs_on_or_dies_of_has_no_reward_and_the_others_have(
    hasty_tasks: WorkerTasks,
) -> None:
    scores = TaskScores(hasty_tasks, "slow:quick", tenant_id=TENANT, total=8, max_faults=0.5)
    answers = [("0", "1"), ("60", "1"), ("0", "0.5"), ("crash", "1"), ("memory", "1"), ("0", "odd")]
    grades = await scores.grades(answers)
    kept = [grade.reward if isinstance(grade, Grade) else None for grade in grades]
    assert kept == [1.0, None, 0.5, None, None, None]
    messages = [grade.message for grade in grades if isinstance(grade, GraderFault)]
    assert messages[0].startswith("scoring 1 texts took more than 2 s")
    assert messages[1:3] == [f"its process was ended by signal {signal.SIGSEGV:d}, twice", "MemoryError: "]
    assert messages[3].startswith("ValueError: could not convert")
    with pytest.raises(TaskFailed, match=r"no reward for at least 5 of 8 samples: other_error 5 times"):
        await scores.grades([("0", "odd")])


async def test_a_caller_that_leaves_frees_the_worker(tasks: WorkerTasks) -> None:
    leaving = [
        asyncio.create_task(tasks.draw("slow:slow", "train", 60, seed, tenant_id=TENANT)) for seed in range(4)
    ]
    await asyncio.sleep(0.5)
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    async with asyncio.timeout(40):
        drawing = [tasks.draw("mode:copy", "train", 4, seed, tenant_id=TENANT) for seed in range(20)]
        assert len(await asyncio.gather(*drawing)) == 20


async def test_what_is_nearly_done_when_its_caller_leaves_keeps_its_worker() -> None:
    async with open_tasks(FAMILIES, replace(LIMITS, workers=1)) as tasks:
        before = await pid_of(tasks)
        leaving = asyncio.create_task(tasks.score("slow:quick", [("0.1", "1")], tenant_id=TENANT))
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await asyncio.sleep(0.3)
        assert await pid_of(tasks) == before


async def test_a_worker_knows_no_secret_of_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MINT_INTERNAL_TOKEN", "secret")
    async with open_tasks(FAMILIES, LIMITS) as tasks:
        (prompt,) = await tasks.draw("slow:quick", "train", 1, 0, tenant_id=TENANT)
    assert prompt.reference == ""


async def test_closing_leaves_no_process() -> None:
    async with open_tasks(FAMILIES, LIMITS) as tasks:
        pids = {int((await tasks.describe("slow:quick")).description)}
        while len(pids) <= LIMITS.workers:
            pids |= set(await asyncio.gather(*(pid_of(tasks) for _ in range(LIMITS.workers))))
        workers = [psutil.Process(pid) for pid in pids]
        working = asyncio.create_task(tasks.draw("slow:slow", "train", 60, 0, tenant_id=TENANT))
        await asyncio.sleep(0.2)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await until_ended(workers)


SERVICE = """
import asyncio, os, sys
from services.rollout.adapters.workers.pool import WorkerLimits
from services.rollout.adapters.workers.tasks import open_tasks

async def main():
    limits = WorkerLimits(workers=1, call_seconds=60, memory_bytes=1 << 30)
    async with open_tasks({"slow": "tests.integration.rollout.slow_tasks:Slow"}, limits) as tasks:
        (prompt,) = await tasks.draw("slow:quick", "train", 1, 0, tenant_id="ten")
        print(prompt.text, flush=True)
        await tasks.draw("slow:slow", "train", 600, 0, tenant_id="ten")

asyncio.run(main())
"""


async def test_a_worker_dies_with_a_killed_service_whatever_it_is_doing() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        worker = psutil.Process(int(await asyncio.to_thread(service.stdout.readline)))
        service.kill()
    await until_ended([worker])


@pytest_asyncio.fixture(loop_scope="module")
async def some_tasks() -> AsyncIterator[WorkerTasks]:
    """Tasks that have so long for a call that a busy machine is not taken for a worker that is held up."""
    async with open_tasks(FAMILIES, replace(LIMITS, call_seconds=8.0)) as tasks:
        yield tasks


@pytest_asyncio.fixture(loop_scope="module")
async def client(some_tasks: WorkerTasks, shared_database: str) -> AsyncIterator[httpx.AsyncClient]:
    http = create_http(title="rollout", service="rollout", internal_token=None, ready=lambda: True)
    http.include_router(task_routes(BoundedTasks(some_tasks, at_once=1)))
    transport = httpx.ASGITransport(app=http)
    async with (
        empty_schema(shared_database, "rollout") as pool,
        httpx.AsyncClient(transport=transport, base_url="http://rollout") as client,
    ):
        commits = SimpleNamespace(jobs=PostgresJobs(pool))
        handlers = SimpleNamespace(commits=commits)  # all that a list asks of them
        trainers = TrainerDirectory([], token="none")
        http.include_router(job_routes(handlers, trainers))  # type: ignore[arg-type]  # as above
        yield client


async def test_lists_stay_quick_while_callers_draw(
    client: httpx.AsyncClient, some_tasks: WorkerTasks
) -> None:
    await client.get("/internal/tasks/mode:copy")
    body = {"split": "train", "n": 60, "seed": 0}
    heavy = [
        asyncio.create_task(client.post("/internal/tasks/slow:slow/prompts", json=body)) for _ in range(4)
    ]
    await asyncio.sleep(0.2)
    for path in (f"/internal/tenants/{TENANT}/jobs", "/internal/tasks/mode:copy"):
        assert (await client.get(path)).status_code == 200
    # Jobs have the other workers.
    assert len(await some_tasks.draw("mode:copy", "train", 8, 1, tenant_id=TENANT)) == 8
    assert not heavy[0].done()
    answer = await heavy[0]
    assert (answer.status_code, answer.json()["error"]["task"]) == (422, "slow:slow")
    for task in heavy:
        task.cancel()
    await asyncio.gather(*heavy, return_exceptions=True)


async def test_callers_that_find_no_worker_are_told_to_come_back(
    tasks: WorkerTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_tasks, "CALLER_WAIT_SECONDS", 0.3)
    callers = BoundedTasks(tasks, at_once=1)
    first = asyncio.create_task(callers.draw("slow:slow", "train", 60, 0, tenant_id=TENANT))
    await asyncio.sleep(0.05)
    with pytest.raises(Overloaded, match="the task queue is full"):
        await callers.draw("mode:copy", "train", 1, 0, tenant_id=TENANT)
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    assert len(await callers.draw("mode:copy", "train", 1, 0, tenant_id=TENANT)) == 1
