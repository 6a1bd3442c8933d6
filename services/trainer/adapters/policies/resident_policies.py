"""Policies over the resident base, worked on by threads of their own (`worker.py`).

Invariant: work owns its policy's state while it is carried out; a policy that was dropped meanwhile, and a
state that is half done, are not given back.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.names import PACKED
from mint_common.events import LoraSpec
from mint_common.ids import PolicyId, TenantId
from mint_common.training import Pass, Passed
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.policies.tasks import PolicyTask
from services.trainer.adapters.policies.tiers import PolicyTiers, ResidentPolicy
from services.trainer.adapters.policies.worker import PolicyWorker
from services.trainer.adapters.states.training_state import (
    ParkedState,
    TrainingState,
    new_state,
    read_state,
    state_export,
    write_parked,
)
from services.trainer.adapters.training.wave_passes import MeasuredRun, measured_pass
from services.trainer.core.algorithms import WaveBatch, measuring_runs
from services.trainer.core.refusals import CheckpointLost, NotFinite
from services.trainer.core.scheduler import SchedulerLimits
from services.trainer.ports.policies import Copy, ExportWeights, PolicyWork, Swaps, Tier

T = TypeVar("T")


class ResidentPolicies:
    """`Policies` of one process."""

    def __init__(self, facts: BaseFacts, worker: PolicyWorker, *, layout: str) -> None:
        self.facts = facts
        self.layout = layout
        self._worker = worker
        self._tiers = worker.tiers

    def tiers(self) -> dict[PolicyId, Tier]:
        """Return where each policy in memory is."""
        return self._tiers.tiers()

    def swaps(self) -> Swaps:
        """Return what moving policies has cost."""
        return self._tiers.swaps()

    def has(self, policy_id: PolicyId) -> bool:
        """Return whether the policy is in memory, or at work."""
        return policy_id in self._worker.at_work or self._tiers.get(policy_id) is not None

    async def admit(self, policy_id: PolicyId, lora: LoraSpec, *, data: bytes | None) -> None:
        """Put a policy into memory from a snapshot, or as initialised; it stays until released."""
        self.forget(policy_id)
        state = await self._read(lora, data, uri=f"snapshot of {policy_id}")
        await self._worker.put(policy_id, ResidentPolicy(state, stays=True))

    def release(self, policy_id: PolicyId) -> None:
        """Allow a policy to leave memory."""
        self._tiers.set_stays(policy_id, stays=False)

    def keep(self, policy_id: PolicyId) -> None:
        """Keep a policy in memory."""
        self._tiers.set_stays(policy_id, stays=True)

    def forget(self, policy_id: PolicyId) -> None:
        """Drop a policy from memory; what is at work on it is not given back."""
        self._tiers.forget(policy_id)
        self._worker.at_work.pop(policy_id, None)

    def forget_all(self) -> None:
        """Drop every policy."""
        for policy_id in [*self._tiers.tiers(), *self._worker.at_work]:
            self.forget(policy_id)

    def begin_pass(
        self, policy_id: PolicyId, tenant_id: TenantId, work: Pass | WaveBatch, *, alone: bool = False
    ) -> Awaitable[Passed]:
        """Queue a pass, or the first run of one that only measures."""
        if isinstance(work, Pass) or work.backward:
            return self._begin(policy_id, tenant_id, work, alone=alone)
        runs = (
            self._begin(policy_id, tenant_id, run, alone=alone)
            for run in measuring_runs(work, max_tokens=self._worker.limits.max_tokens)
        )
        return self._measure(work, next(runs), runs)

    async def _measure(
        self,
        work: WaveBatch,
        first: "asyncio.Future[MeasuredRun]",
        rest: Iterator["asyncio.Future[MeasuredRun]"],
    ) -> Passed:
        """Return what a pass tells that only measures; each run is queued when the one before it is done.

        So whoever waits longer comes before the next.
        """
        found = [await first, *[await run for run in rest]]
        measured = measured_pass(work, found)
        if isinstance(measured, NotFinite):
            raise measured
        return measured

    def begin(
        self, policy_id: PolicyId, tenant_id: TenantId, work: PolicyWork[T], *, alone: bool = False
    ) -> Awaitable[T]:
        """Queue other work; a thread of its own writes what a copy or an export gives."""
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
        self._worker.add_task(task, tenant_id, alone=alone)
        return task.done

    async def _written(
        self, parked: "asyncio.Future[ParkedState]", write: Callable[[ParkedState], object]
    ) -> Any:  # what a copy or an export gives
        state = await parked
        return await self._worker.write(lambda: write(state))

    async def _read(self, lora: LoraSpec, data: bytes | None, *, uri: str) -> TrainingState:
        try:
            return await self._worker.compute(
                lambda: new_state(self.facts, lora) if data is None else read_state(self.facts, lora, data)
            )
        except ValueError as error:
            raise CheckpointLost(uri=uri, problem=str(error)) from error


@asynccontextmanager
async def open_policies(
    load: Callable[[], ScoringBase],
    *,
    threads: int,
    limits: SchedulerLimits,
    host_policies: int,
    max_tokens: int | None,
    layout: str = PACKED,
) -> AsyncIterator[ResidentPolicies]:
    """Load a base in a thread of its own and yield its policies; leaving waits for the step in hand.

    ``max_tokens`` bounds a micro-batch; None leaves that to the base.
    """
    with (
        ThreadPoolExecutor(1, "trainer", torch.set_num_threads, (threads,)) as stepper,
        ThreadPoolExecutor(1, "exporter", torch.set_num_threads, (1,)) as exporter,
    ):
        base = await asyncio.get_running_loop().run_in_executor(stepper, load)
        worker = PolicyWorker(
            base,
            stepper=stepper,
            exporter=exporter,
            tiers=PolicyTiers(
                device_policies=limits.device_policies, host_policies=host_policies, device=base.device
            ),
            limits=limits,
            max_tokens=max_tokens or base.microbatch_tokens,
        )
        async with asyncio.TaskGroup() as work:
            runner = work.create_task(worker.run())
            try:
                yield ResidentPolicies(base.facts, worker, layout=layout)
            finally:
                runner.cancel()
