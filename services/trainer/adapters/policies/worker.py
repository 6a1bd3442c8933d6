"""The threads that work on policies in memory: one that computes, one that writes what was computed.

Whatever is ready when the first is free is planned together (`core/scheduler.py`). Invariants: work owns its
policies' states while it is carried out, and gives back only what is sound and still wanted; a fault of the
machinery is the result of everything that was in the batch.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mint_common.ids import PolicyId, TenantId
from services.trainer import metrics
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.policies.tasks import PolicyTask, carry_out
from services.trainer.adapters.policies.tiers import PolicyTiers, ResidentPolicy
from services.trainer.adapters.policies.wave_steps import SteppedWave, WaveStep, export_wave, step_waves
from services.trainer.core.operations import NotResident
from services.trainer.core.scheduler import Operation, Schedule, SchedulerLimits

T = TypeVar("T")


class PolicyWorker:
    """Plans and carries out jobs and tasks. ``tiers`` is changed on the event loop only, but for swaps."""

    def __init__(
        self,
        base: ScoringBase,
        *,
        stepper: ThreadPoolExecutor,
        exporter: ThreadPoolExecutor,
        tiers: PolicyTiers,
        limits: SchedulerLimits,
        max_tokens: int,
        layout: str,
    ) -> None:
        self.tiers = tiers
        self.at_work: dict[PolicyId, ResidentPolicy] = {}
        self._base = base
        self._stepper = stepper
        self._exporter = exporter
        self._limits = limits
        self._max_tokens = max_tokens
        self.layout = layout
        self._schedule = Schedule()
        self._jobs: dict[int, WaveStep] = {}
        self._tasks: dict[int, PolicyTask] = {}
        self._numbers = itertools.count()
        self._news = asyncio.Event()

    def add_job(self, job: WaveStep, tenant_id: TenantId) -> None:
        """Queue the step of a wave."""
        number = next(self._numbers)
        self._jobs[number] = job
        self._add(
            Operation(
                policy_id=job.policy_id,
                tenant_id=tenant_id,
                seq=number,
                kind="wave",
                rank=job.resident.state.rank,
                tokens=job.tokens,
            )
        )

    def add_task(self, task: PolicyTask, tenant_id: TenantId, *, alone: bool) -> None:
        """Queue the work of an operation, behind its policy's earlier work."""
        number = next(self._numbers)
        self._tasks[number] = task
        resident = self.at_work.get(task.policy_id) or self.tiers.get(task.policy_id)
        self._add(
            Operation(
                policy_id=task.policy_id,
                tenant_id=tenant_id,
                seq=number,
                kind=task.kind,
                rank=resident.state.rank if resident else 1,
                tokens=task.tokens,
                alone=alone,
            )
        )

    async def put(self, policy_id: PolicyId, resident: ResidentPolicy) -> None:
        """Keep a policy in memory, and move others out if that needs room."""
        await self._swap_out(self.tiers.put(policy_id, resident))

    async def compute(self, work: Callable[[], T]) -> T:
        """Do something on the thread that computes."""
        return await asyncio.get_running_loop().run_in_executor(self._stepper, work)

    async def write(self, work: Callable[[], T]) -> T:
        """Do something on the thread that writes."""
        return await asyncio.get_running_loop().run_in_executor(self._exporter, work)

    async def run(self) -> None:
        """Carry out plans until cancelled; exports go on beside them."""
        async with asyncio.TaskGroup() as exports:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._schedule.waiting:
                    await self._carry_out_next(exports)

    def _add(self, operation: Operation) -> None:
        self._schedule = self._schedule.add(operation)
        self._news.set()

    async def _carry_out_next(self, exports: asyncio.TaskGroup) -> None:
        busy = [job for job in self._jobs.values() if job.resident.tier == "device"]
        on_device = [*self.tiers.on_device(), *(job.policy_id for job in busy)]
        plan, self._schedule = self._schedule.plan(self._limits, on_device=on_device)
        leaving = [job.resident for job in busy if job.policy_id in plan.swap_out]
        await self._swap_out([*self.tiers.find(plan.swap_out), *leaving])
        planned = [operation.seq for operation in (*plan.batch, *plan.steps, *plan.upkeep)]
        await self._carry_out_tasks([self._tasks.pop(number) for number in planned if number in self._tasks])
        await self._carry_out_jobs(
            [self._jobs.pop(number) for number in planned if number in self._jobs], exports
        )

    async def _carry_out_tasks(self, tasks: Sequence[PolicyTask]) -> None:
        for task in tasks:
            if not self.tiers.has_admitted(task.policy_id):
                task.settle(NotResident(policy_id=task.policy_id))
        tasks = [task for task in tasks if not task.done.done()]
        if not tasks:
            return
        self.at_work = {policy_id: self.tiers.take(policy_id) for policy_id in _policies_of(tasks)}
        residents = dict(self.at_work)
        metrics.BATCH_POLICIES.observe(len(residents))
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

    async def _carry_out_jobs(self, jobs: Sequence[WaveStep], exports: asyncio.TaskGroup) -> None:
        jobs = [job for job in jobs if not job.done.done()]
        if not jobs:
            return
        metrics.BATCH_POLICIES.observe(len(jobs))
        work = self.compute(lambda: step_waves(self._base, self.tiers, jobs, max_tokens=self._max_tokens))
        # A fault of the trainer is the result of the whole batch; each policy is restored and tried again.
        (results,) = await asyncio.gather(work, return_exceptions=True)
        each = itertools.repeat(results) if isinstance(results, BaseException) else results
        for job, result in zip(jobs, each, strict=False):
            if isinstance(result, BaseException):
                job.fail(result)
            else:
                exports.create_task(self._finish(job, result))

    async def _finish(self, job: WaveStep, left: SteppedWave) -> None:
        """Export what a step left beside the next batch, then answer."""
        work = self.write(lambda: export_wave(self._base.facts, job, left, layout=self.layout))
        (result,) = await asyncio.gather(work, return_exceptions=True)
        if isinstance(result, BaseException):
            job.fail(result)
        elif not job.done.done():
            stepped, job.resident.sha256 = result
            # A client may have begun to train the policy meanwhile: then the commit of this step is refused.
            if job.policy_id not in self.at_work and not self.tiers.has_admitted(job.policy_id):
                await self.put(job.policy_id, job.resident)
            job.done.set_result(stepped)

    async def _swap_out(self, residents: Sequence[ResidentPolicy]) -> None:
        if residents:
            await self.compute(lambda: self.tiers.swap_out(residents))
            self.tiers.trim()


def _policies_of(tasks: Sequence[PolicyTask]) -> list[PolicyId]:
    return list(dict.fromkeys(task.policy_id for task in tasks))
