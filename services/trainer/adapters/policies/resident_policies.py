"""Policies over the resident base, and their two threads: one computes, one writes the results.

Operations that are ready when the first is free are planned together (`core/scheduler.py`). Invariants: work
owns its policies' states while it runs; states are not given back if the policy was dropped meanwhile, the
state is half done, or the work was abandoned while it finished; a machine fault is the
result of everything in the batch, and a policy that it keeps from leaving the device stays there,
whole.
"""

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch

from mint_common.adapters_format.names import PACKED
from mint_common.events import LoraSpec
from mint_common.ids import PolicyId, TenantId
from mint_common.runtime.low_priority import let_thread_give_way
from mint_common.training import Pass, Passed
from services.trainer import metrics
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.policies.tasks import (
    CarryOut,
    PolicyTask,
    Unfinished,
    carry_out,
    carry_out_run,
)
from services.trainer.adapters.policies.tiers import PolicyTiers, ResidentPolicy
from services.trainer.adapters.states.training_state import (
    ParkedState,
    TrainingState,
    new_state,
    read_state,
    state_export,
    write_parked,
)
from services.trainer.core.operations import NotResident
from services.trainer.core.policy_work import Copy, Distillation, ExportWeights, PolicyWork, Swaps, Tier
from services.trainer.core.refusals import CheckpointLost
from services.trainer.core.scheduler import Operation, Schedule, SchedulerLimits
from services.trainer.core.wave_batch import WaveBatch

_log = logging.getLogger(__name__)
_PAID = {"forward", "forward_backward", "optim_step"}

T = TypeVar("T")


class ResidentPolicies:
    """Policies over the resident base. Work runs one batch after another, never on the event loop.

    Tiers are changed on the event loop only, but for swaps.
    """

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
        self.facts = base.facts
        self.rules = base.rules
        self.layout = layout
        self._base = base
        self._stepper = stepper
        self._exporter = exporter
        self._tiers = tiers
        self._limits = limits
        self._max_tokens = max_tokens
        self._at_work: dict[PolicyId, ResidentPolicy] = {}
        self._schedule = Schedule()
        self._tasks: dict[int, PolicyTask] = {}
        self._numbers = itertools.count()
        self._news = asyncio.Event()
        self._seconds: dict[PolicyId, float] = {}

    def tiers(self) -> dict[PolicyId, Tier]:
        """Return where each policy in memory is."""
        return self._tiers.tiers()

    def swaps(self) -> Swaps:
        """Return what moving policies has cost."""
        return self._tiers.swaps()

    def has(self, policy_id: PolicyId) -> bool:
        """Return whether the policy is in memory, or at work."""
        return policy_id in self._at_work or self._tiers.get(policy_id) is not None

    async def admit(self, policy_id: PolicyId, lora: LoraSpec, *, data: bytes | None) -> None:
        """Put a policy into memory from a snapshot, or as initialised, and protect it until released.

        Raises CheckpointLost when the bytes do not fit it.
        """
        self.forget(policy_id)
        state = await self._read(lora, data, uri=f"snapshot of {policy_id}")
        await self._swap_out(self._tiers.put(policy_id, ResidentPolicy(state, stays=True)))

    def release(self, policy_id: PolicyId) -> None:
        """Allow a policy to leave memory; those that the host has no room for leave now."""
        self._tiers.set_stays(policy_id, stays=False)
        self._tiers.trim()

    def keep(self, policy_id: PolicyId) -> None:
        """Protect the policy again: its state is about to change."""
        self._tiers.set_stays(policy_id, stays=True)

    def forget(self, policy_id: PolicyId) -> None:
        """Drop a policy from memory; running work does not give it back."""
        self._tiers.forget(policy_id)
        self._at_work.pop(policy_id, None)
        self._seconds.pop(policy_id, None)

    def take_seconds(self, policy_id: PolicyId) -> float:
        """Return a policy's share of the seconds of passes and steps since the last call."""
        return self._seconds.pop(policy_id, 0.0)

    def forget_all(self) -> None:
        """Drop every policy: their states may be another trainer's now."""
        for policy_id in [*self._tiers.tiers(), *self._at_work]:
            self.forget(policy_id)

    def begin_pass(
        self, policy_id: PolicyId, tenant_id: TenantId, work: Pass | WaveBatch, *, alone: bool = False
    ) -> Awaitable[Passed]:
        """Queue a pass after the policy's earlier work, in the order of the calls of this and of `begin`.

        ``alone`` excludes other policies from its batch. A pass larger than a batch is computed in runs of
        one micro-batch, between which other policies run; cancelling ends it there, and the gradient is as it
        was before.

        Raises NotFinite when the pass is refused: it adds nothing to the gradient. Raises NotResident
        when the policy has been dropped, which also happens to work queued after a machine fault.
        """
        return self._begin(policy_id, tenant_id, work, alone=alone)

    def begin(
        self, policy_id: PolicyId, tenant_id: TenantId, work: PolicyWork[T], *, alone: bool = False
    ) -> Awaitable[T]:
        """Queue other work, as a pass is queued, in runs also; also raises the errors of the work's class."""
        begun, asked = self._begin(policy_id, tenant_id, work, alone=alone), cast("object", work)
        match asked:
            case Copy(with_gradient=with_gradient):
                return self._written(begun, partial(write_parked, with_gradient=with_gradient))
            case ExportWeights(after=after):
                export = partial(state_export, self.facts, policy_id, after=after, layout=self.layout)
                return self._written(begun, export)
            case _:
                return begun

    def _begin(
        self,
        policy_id: PolicyId,
        tenant_id: TenantId,
        work: Pass | WaveBatch | PolicyWork[Any],
        *,
        alone: bool = False,
    ) -> "asyncio.Future[Any]":  # what the work's kind gives: see `tasks.Done`
        task = PolicyTask(policy_id=policy_id, work=work, done=asyncio.get_running_loop().create_future())
        number, tokens = next(self._numbers), task.tokens(self._base)
        self._tasks[number] = task
        resident = self._at_work.get(policy_id) or self._tiers.get(policy_id)
        self._schedule = self._schedule.add(
            Operation(
                policy_id=policy_id,
                tenant_id=tenant_id,
                seq=number,
                kind=task.kind,
                rank=resident.state.lora.rank if resident else 1,
                tokens=tokens,
                alone=alone,
                in_runs=tokens > self._limits.max_tokens,
            )
        )
        self._news.set()
        return task.done

    async def _written(
        self, parked: "asyncio.Future[ParkedState]", write: Callable[[ParkedState], object]
    ) -> Any:  # what a copy or an export gives
        state = await parked
        return await asyncio.get_running_loop().run_in_executor(self._exporter, write, state)

    async def _read(self, lora: LoraSpec, data: bytes | None, *, uri: str) -> TrainingState:
        try:
            return await self._compute(
                lambda: new_state(self.facts, lora) if data is None else read_state(self.facts, lora, data)
            )
        except ValueError as error:
            raise CheckpointLost(uri=uri, problem=str(error)) from error

    async def run(self) -> None:
        """Carry out plans until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._schedule.waiting:
                await self._carry_out_next()

    async def _carry_out_next(self) -> None:
        plan, self._schedule = self._schedule.plan(self._limits, on_device=self._tiers.on_device())
        await self._swap_out(self._tiers.find(plan.swap_out))
        if plan.run is not None:
            await self._carry_out_run(plan.run)
            return
        if plan.batch:
            metrics.BATCH_POLICIES.observe(len({operation.policy_id for operation in plan.batch}))
        planned = [operation.seq for operation in (*plan.batch, *plan.steps, *plan.upkeep)]
        tasks = [self._tasks.pop(number) for number in planned]
        await self._carry_out(tasks, carry_out, max_tokens=self._max_tokens)

    async def _carry_out_run(self, operation: Operation) -> None:
        task = self._tasks[operation.seq]
        await self._carry_out(
            [task], carry_out_run, max_tokens=min(self._max_tokens, self._limits.max_tokens)
        )
        is_done, tokens = task.done.done(), task.open_runs.tokens if task.open_runs else 0
        self._schedule = self._schedule.ran(operation, tokens=tokens, is_done=is_done)
        if is_done:
            del self._tasks[operation.seq]

    async def _carry_out(self, tasks: Sequence[PolicyTask], work: CarryOut, *, max_tokens: int) -> None:
        for task in tasks:
            if self._tiers.get(task.policy_id) is None:
                task.settle(NotResident(policy_id=task.policy_id))
                task.open_runs = None
        # What is given up between two runs has to take back what it has done.
        tasks = [task for task in tasks if task.open_runs or not task.done.done()]
        if not tasks:
            return
        policies = dict.fromkeys(task.policy_id for task in tasks)
        self._at_work = {policy_id: self._tiers.take(policy_id) for policy_id in policies}
        residents = dict(self._at_work)
        doing = self._compute(
            lambda: _timed(lambda: work(self._base, self._tiers, tasks, residents, max_tokens=max_tokens))
        )
        (worked,) = await asyncio.gather(doing, return_exceptions=True)
        # A policy that was dropped meanwhile is not given back.
        kept, self._at_work = self._at_work, {}
        if isinstance(worked, BaseException):
            for task in tasks:
                task.settle(worked)
            return
        (results, spoilt), seconds = worked
        self._share_out(seconds, [task for task in tasks if task.policy_id in kept])
        late = {task.policy_id for task, one in zip(tasks, results, strict=True) if _is_late(task, one)}
        surplus: list[ResidentPolicy] = []
        # All before the first await: who is forgotten must be found, and nothing is given up in between.
        for policy_id in [one for one in kept if one not in spoilt | late]:
            surplus = self._tiers.put(policy_id, kept[policy_id])
        for task, result in zip(tasks, results, strict=True):
            if not isinstance(result, Unfinished):
                task.settle(result)
        await self._swap_out(surplus)

    def _share_out(self, seconds: float, tasks: Sequence[PolicyTask]) -> None:
        """Divide the time of a batch by the tokens of its passes; copies and upkeep are free."""
        tokens: Counter[PolicyId] = Counter()
        for task in tasks:
            if task.kind in _PAID or isinstance(task.work, Distillation):
                tokens[task.policy_id] += max(1, task.tokens(self._base))
        for policy_id, share in tokens.items():
            self._seconds[policy_id] = self._seconds.get(policy_id, 0.0) + seconds * share / tokens.total()

    async def _swap_out(self, residents: Sequence[ResidentPolicy]) -> None:
        """Move policies off the device; the next plan retries those that a fault keeps there."""
        for resident in residents:
            moving = self._compute(partial(self._tiers.swap_out, resident))
            (fault,) = await asyncio.gather(moving, return_exceptions=True)
            if fault is not None:
                _log.error("policy not moved off the device", exc_info=fault)
        if residents:
            self._tiers.trim()

    async def _compute(self, work: Callable[[], T]) -> T:
        """Do something on the thread that computes. Raises RuntimeError when that has been shut down."""
        return await asyncio.get_running_loop().run_in_executor(self._stepper, work)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def _is_late(task: PolicyTask, result: object) -> bool:
    """Return whether a task was given up while it was finished: its state has what its log will not have."""
    return task.done.done() and not isinstance(result, Unfinished)


@asynccontextmanager
async def open_policies(
    load: Callable[[], ScoringBase],
    *,
    threads: int,
    limits: SchedulerLimits,
    host_policies: int,
    max_tokens: int | None,
    layout: str = PACKED,
    niceness: int = 0,
) -> AsyncIterator[ResidentPolicies]:
    """Load a base in a separate thread and yield its policies; leaving waits for the current step.

    ``max_tokens`` limits a micro-batch; None uses the base's default. ``niceness`` lowers the priority of
    computation below the process's other threads, which renew its lease, and other processes.
    """
    with (
        ThreadPoolExecutor(1, "trainer", _begin_computing, (threads, niceness)) as stepper,
        ThreadPoolExecutor(1, "exporter", _begin_computing, (1, niceness)) as exporter,
    ):
        base = await asyncio.get_running_loop().run_in_executor(stepper, load)
        policies = ResidentPolicies(
            base,
            stepper=stepper,
            exporter=exporter,
            tiers=PolicyTiers(
                device_policies=limits.device_policies, host_policies=host_policies, device=base.device
            ),
            limits=limits,
            max_tokens=max_tokens or base.microbatch_tokens,
            layout=layout,
        )
        async with asyncio.TaskGroup() as work:
            runner = work.create_task(policies.run())
            try:
                yield policies
            finally:
                runner.cancel()


def _begin_computing(threads: int, niceness: int) -> None:
    """Prepare a thread; torch's own threads, which it starts, inherit its priority."""
    let_thread_give_way(niceness)
    torch.set_num_threads(threads)
