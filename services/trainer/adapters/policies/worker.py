"""The threads that work on policies in memory: one that computes, one that writes what was computed.

Whatever is ready when the first is free is planned together (`core/scheduler.py`). Invariants: work owns its
policies' states while it is carried out, and gives back only what is sound and still wanted; a fault of the
machinery is the result of everything that was in the batch, and a policy that it keeps from leaving the
device stays there, whole.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from mint_common.ids import PolicyId, TenantId
from services.trainer import metrics
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.policies.tasks import PolicyTask, carry_out
from services.trainer.adapters.policies.tiers import PolicyTiers, ResidentPolicy
from services.trainer.core.operations import NotResident
from services.trainer.core.scheduler import Operation, Schedule, SchedulerLimits

_log = logging.getLogger(__name__)

T = TypeVar("T")


class PolicyWorker:
    """Plans and carries out tasks. ``tiers`` is changed on the event loop only, but for swaps."""

    def __init__(
        self,
        base: ScoringBase,
        *,
        stepper: ThreadPoolExecutor,
        exporter: ThreadPoolExecutor,
        tiers: PolicyTiers,
        limits: SchedulerLimits,
        max_tokens: int,
    ) -> None:
        self.tiers = tiers
        self.at_work: dict[PolicyId, ResidentPolicy] = {}
        self._base = base
        self._stepper = stepper
        self._exporter = exporter
        self.limits = limits
        self._max_tokens = max_tokens
        self._schedule = Schedule()
        self._tasks: dict[int, PolicyTask] = {}
        self._numbers = itertools.count()
        self._news = asyncio.Event()

    def add_task(self, task: PolicyTask, tenant_id: TenantId, *, alone: bool) -> None:
        """Queue the work of an operation, behind its policy's earlier work."""
        number = next(self._numbers)
        self._tasks[number] = task
        resident = self.at_work.get(task.policy_id) or self.tiers.get(task.policy_id)
        self._schedule = self._schedule.add(
            Operation(
                policy_id=task.policy_id,
                tenant_id=tenant_id,
                seq=number,
                kind=task.kind,
                rank=resident.state.lora.rank if resident else 1,
                tokens=task.tokens,
                alone=alone,
            )
        )
        self._news.set()

    async def put(self, policy_id: PolicyId, resident: ResidentPolicy) -> None:
        """Keep a policy in memory, and move others out if that needs room."""
        await self._swap_out(self.tiers.put(policy_id, resident))

    async def compute(self, work: Callable[[], T]) -> T:
        """Do something on the thread that computes. Raises RuntimeError when that has been shut down."""
        return await asyncio.get_running_loop().run_in_executor(self._stepper, work)

    def write(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Do something on the thread that writes."""
        return asyncio.get_running_loop().run_in_executor(self._exporter, work)

    async def run(self) -> None:
        """Carry out plans until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._schedule.waiting:
                await self._carry_out_next()

    async def _carry_out_next(self) -> None:
        plan, self._schedule = self._schedule.plan(self.limits, on_device=self.tiers.on_device())
        await self._swap_out(self.tiers.find(plan.swap_out))
        if plan.batch:
            metrics.BATCH_POLICIES.observe(len({operation.policy_id for operation in plan.batch}))
        planned = [operation.seq for operation in (*plan.batch, *plan.steps, *plan.upkeep)]
        await self._carry_out([self._tasks.pop(number) for number in planned])

    async def _carry_out(self, tasks: Sequence[PolicyTask]) -> None:
        for task in tasks:
            if self.tiers.get(task.policy_id) is None:
                task.settle(NotResident(policy_id=task.policy_id))
        tasks = [task for task in tasks if not task.done.done()]
        if not tasks:
            return
        policies = dict.fromkeys(task.policy_id for task in tasks)
        self.at_work = {policy_id: self.tiers.take(policy_id) for policy_id in policies}
        residents = dict(self.at_work)
        work = self.compute(
            lambda: carry_out(self._base, self.tiers, tasks, residents, max_tokens=self._max_tokens)
        )
        (worked,) = await asyncio.gather(work, return_exceptions=True)
        # A policy that was dropped meanwhile is not given back.
        kept, self.at_work = self.at_work, {}
        if isinstance(worked, BaseException):
            for task in tasks:
                task.settle(worked)
            return
        results, spoilt = worked
        surplus: list[ResidentPolicy] = []
        for policy_id in [one for one in kept if one not in spoilt]:
            # All before the first await: who is forgotten must be found.
            surplus = self.tiers.put(policy_id, kept[policy_id])
        await self._swap_out(surplus)
        for task, result in zip(tasks, results, strict=True):
            task.settle(result)

    async def _swap_out(self, residents: Sequence[ResidentPolicy]) -> None:
        """Move policies off the device; the next plan tries again with those that a fault keeps there."""
        for resident in residents:
            moving = self.compute(partial(self.tiers.swap_out, resident))
            (fault,) = await asyncio.gather(moving, return_exceptions=True)
            if fault is not None:
                _log.error("policy not moved off the device", exc_info=fault)
        if residents:
            self.tiers.trim()
