"""The installed tasks, run by workers; see `services.rollout.ports.Tasks`.

Descriptions have a pool of their own and are cached, so that a slow draw never delays a list of tasks.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import msgspec

from mint_common.errors import InvalidField, Overloaded, TaskFailed, error_from_payload
from mint_common.ids import TenantId
from mint_common.records import Prompt
from mint_common.runtime.fair_gate import FairGate
from services.rollout.adapters.workers.pool import WorkerLimits, WorkerPool, open_workers
from services.rollout.adapters.workers.wire import (
    Call,
    CallFailed,
    DescribeTasks,
    DrawnPrompts,
    DrawPrompts,
    ListedTasks,
    ScoredTexts,
    ScoreTexts,
)
from services.rollout.core.task import Split, TaskInfo
from services.rollout.ports import Tasks

CALLER_WAIT_SECONDS = 10.0
"""Time that a caller over HTTP waits for a worker; less than its client's timeout."""

_log = logging.getLogger(__name__)

A = TypeVar("A", ListedTasks, DrawnPrompts, ScoredTexts)


class WorkerTasks:
    """Tasks whose code runs in ``workers``, which share ``turns``; ``describing`` is for descriptions."""

    def __init__(self, workers: WorkerPool, describing: WorkerPool, turns: FairGate) -> None:
        self._workers = workers
        self._turns = turns
        self._describing = describing
        self._listed: list[TaskInfo] | None = None
        self._shown: dict[str, TaskInfo] = {}

    async def describe_all(self) -> list[TaskInfo]:
        """Describe every task."""
        if self._listed is None:
            call = DescribeTasks(task=None)
            listed = await _ask(self._describing, call, ListedTasks, task="*", doing="listing the tasks")
            for family, problem in listed.broken.items():
                _log.warning("task family left out", extra={"family": family, "problem": problem})
            self._listed = listed.tasks
            self._shown.update({info.name: info for info in listed.tasks})
        return self._listed

    async def describe(self, name: str) -> TaskInfo:
        """Describe a task."""
        if name not in self._shown:
            call = DescribeTasks(task=name)
            shown = await _ask(self._describing, call, ListedTasks, task=name, doing="describing it")
            (self._shown[name],) = shown.tasks
        return self._shown[name]

    async def draw(self, name: str, split: Split, n: int, seed: int, *, tenant_id: TenantId) -> list[Prompt]:
        """Draw prompts."""
        call = DrawPrompts(task=name, split=split, n=n, seed=seed)
        doing = f"drawing {n} prompts"
        async with self._turns.turn(tenant_id):
            return (await _ask(self._workers, call, DrawnPrompts, task=name, doing=doing)).prompts

    async def score(
        self, name: str, answers: Sequence[tuple[str, str]], *, tenant_id: TenantId
    ) -> list[float]:
        """Score texts."""
        call = ScoreTexts(task=name, answers=answers)
        doing = f"scoring {len(answers)} texts"
        async with self._turns.turn(tenant_id):
            return (await _ask(self._workers, call, ScoredTexts, task=name, doing=doing)).rewards


class BoundedTasks:
    """The same for callers over HTTP, who use at most ``at_once`` workers, so that jobs have the others."""

    def __init__(self, tasks: Tasks, *, at_once: int) -> None:
        self._tasks = tasks
        self._slots = asyncio.Semaphore(at_once)
        self._waiting = 0

    async def describe_all(self) -> list[TaskInfo]:
        """Describe every task."""
        return await self._tasks.describe_all()

    async def describe(self, name: str) -> TaskInfo:
        """Describe a task."""
        return await self._tasks.describe(name)

    async def draw(self, name: str, split: Split, n: int, seed: int, *, tenant_id: TenantId) -> list[Prompt]:
        """Draw prompts in turn. Raises Overloaded."""
        async with self._turn():
            return await self._tasks.draw(name, split, n, seed, tenant_id=tenant_id)

    async def score(
        self, name: str, answers: Sequence[tuple[str, str]], *, tenant_id: TenantId
    ) -> list[float]:
        """Score texts in turn. Raises Overloaded."""
        async with self._turn():
            return await self._tasks.score(name, answers, tenant_id=tenant_id)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        self._waiting += 1
        try:
            async with asyncio.timeout(CALLER_WAIT_SECONDS):
                await self._slots.acquire()
        except TimeoutError as error:
            depth, seconds = self._waiting, CALLER_WAIT_SECONDS
            raise Overloaded(what="the task queue", depth=depth, retry_after_seconds=seconds) from error
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()


async def _ask(pool: WorkerPool, call: Call, kind: type[A], *, task: str, doing: str) -> A:
    try:
        asked = msgspec.msgpack.encode(call)
    except (UnicodeEncodeError, OverflowError) as error:
        raise InvalidField(
            field="items" if isinstance(call, ScoreTexts) else "seed", problem=str(error)
        ) from error
    data = await pool.ask(asked, task=task, doing=doing)
    try:
        answer = msgspec.msgpack.decode(data, type=kind | CallFailed)
    except msgspec.DecodeError as error:
        raise TaskFailed(task=task, problem=f"its answer is unreadable: {error}") from error
    if isinstance(answer, CallFailed):
        raise error_from_payload(answer.error, what=f"task {task}")
    return answer


@asynccontextmanager
async def open_tasks(families: Mapping[str, str], limits: WorkerLimits) -> AsyncIterator[WorkerTasks]:
    """Run workers for the installed families within the block: ``limits.workers`` for each tenant.

    Of all tenants there are a quarter more, one at least, so that one tenant's slow code holds up no other's.
    """
    most = limits.workers + max(1, limits.workers // 4)
    turns = FairGate(most, limit=limits.workers)
    async with (
        open_workers(families, replace(limits, workers=most)) as workers,
        open_workers(families, replace(limits, workers=1)) as describing,
    ):
        yield WorkerTasks(workers, describing, turns)
