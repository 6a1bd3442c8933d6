"""Policies over the resident base, worked on by threads of their own (`worker.py`).

Invariants: what is in memory under a checkpoint's digest equals that checkpoint; a step changes the digest. A
step owns its policy's state from the call on, and gives it back only if it succeeds and somebody still waits
for it: a half-done or an unwanted one is never continued from.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import torch

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.names import PACKED
from mint_common.claims import Claim
from mint_common.events import LoraSpec
from mint_common.ids import Digest, PolicyId, TenantId
from mint_common.training import Distill, Distilled, Pass, Passed, Step
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.policies.tasks import Clear, Copy, DistillTask, PolicyTask, Replace, Work
from services.trainer.adapters.policies.tiers import PolicyTiers, ResidentPolicy
from services.trainer.adapters.policies.wave_steps import WaveStep
from services.trainer.adapters.policies.worker import PolicyWorker
from services.trainer.adapters.states.training_state import (
    ParkedState,
    TrainingState,
    new_state,
    read_state,
    state_copy,
    state_export,
)
from services.trainer.core.batch import Batch
from services.trainer.core.refusals import CheckpointLost
from services.trainer.core.scheduler import SchedulerLimits
from services.trainer.ports.policies import (
    ExportFrom,
    StateCopy,
    StateExport,
    StepResult,
    StepSettings,
    StepTaken,
    Swaps,
    Tier,
)

T = TypeVar("T")


class ResidentPolicies:
    """`Policies` of one process."""

    def __init__(self, base: ScoringBase, worker: PolicyWorker) -> None:
        self._base = base
        self._worker = worker
        self._tiers = worker.tiers

    @property
    def facts(self) -> BaseFacts:
        """Return the base's facts."""
        return self._base.facts

    @property
    def layout(self) -> str:
        """Return how exports keep experts."""
        return self._worker.layout

    def holds(self, policy_id: PolicyId, checkpoint: Claim | None) -> bool:
        """Return whether the policy is in memory exactly as that checkpoint says."""
        return self._tiers.holds(policy_id, checkpoint)

    def tiers(self) -> dict[PolicyId, Tier]:
        """Return where each policy in memory is."""
        return self._tiers.tiers()

    def swaps(self) -> Swaps:
        """Return what moving policies has cost."""
        return self._tiers.swaps()

    async def restore(
        self, policy_id: PolicyId, lora: LoraSpec, *, checkpoint: Claim | None, data: bytes | None
    ) -> None:
        """Put a policy into memory from a checkpoint's bytes, or as initialised."""
        self._tiers.forget(policy_id)
        uri = checkpoint.uri if checkpoint else ""
        state = await self._read(lora, data if checkpoint else None, uri=uri)
        await self._worker.put(policy_id, ResidentPolicy(state, checkpoint.sha256 if checkpoint else None))

    async def step(
        self,
        policy_id: PolicyId,
        batch: Batch,
        settings: StepSettings,
        *,
        tenant_id: TenantId,
        parent: Digest | None,
    ) -> StepResult:
        """Take one optimizer step on a resident policy, with others that are ready, and export it."""
        job = WaveStep(
            policy_id=policy_id,
            resident=self._tiers.take(policy_id),
            batch=batch,
            settings=settings,
            parent=parent,
            done=asyncio.get_running_loop().create_future(),
        )
        self._worker.add_job(job, tenant_id)
        return await job.done

    def has(self, policy_id: PolicyId) -> bool:
        """Return whether the policy was admitted and is in memory, or at work."""
        return policy_id in self._worker.at_work or self._tiers.has_admitted(policy_id)

    async def admit(self, policy_id: PolicyId, lora: LoraSpec, *, data: bytes | None) -> None:
        """Put a policy into memory from a snapshot, or as initialised; it stays until released."""
        self.forget(policy_id)
        state = await self._read(lora, data, uri=f"snapshot of {policy_id}")
        await self._worker.put(policy_id, ResidentPolicy(state, None, admitted=True, stays=True))

    def release(self, policy_id: PolicyId) -> None:
        """Allow a policy to leave memory."""
        self._tiers.let_go(policy_id)

    def keep(self, policy_id: PolicyId) -> None:
        """Keep a policy in memory."""
        self._tiers.hold_on(policy_id)

    def forget(self, policy_id: PolicyId) -> None:
        """Drop a policy from memory; what is at work on it is not given back."""
        self._tiers.forget(policy_id)
        self._worker.at_work.pop(policy_id, None)

    def forget_admitted(self) -> None:
        """Drop every policy that was admitted."""
        for policy_id in [*self._tiers.admitted(), *self._worker.at_work]:
            self.forget(policy_id)

    def begin_pass(
        self, policy_id: PolicyId, tenant_id: TenantId, work: Pass, *, alone: bool = False
    ) -> Awaitable[Passed]:
        """Queue a pass."""
        return self._begin(policy_id, tenant_id, work, alone=alone)

    def begin_distill(
        self,
        policy_id: PolicyId,
        tenant_id: TenantId,
        work: Distill,
        teacher: LoraSpec,
        data: bytes,
        *,
        alone: bool = False,
    ) -> Awaitable[Distilled]:
        """Queue a distillation."""
        learn = DistillTask(distill=work, teacher=teacher, data=data)
        return self._begin(policy_id, tenant_id, learn, alone=alone)

    def begin_step(
        self, policy_id: PolicyId, tenant_id: TenantId, work: Step, *, alone: bool = False
    ) -> Awaitable[StepTaken]:
        """Queue an optimizer step."""
        return self._begin(policy_id, tenant_id, work, alone=alone)

    def begin_clear(self, policy_id: PolicyId, tenant_id: TenantId) -> Awaitable[None]:
        """Queue the clearing of the gradient."""
        return self._begin(policy_id, tenant_id, Clear())

    def begin_load(
        self, policy_id: PolicyId, tenant_id: TenantId, lora: LoraSpec, data: bytes, *, with_optimizer: bool
    ) -> Awaitable[int]:
        """Queue the replacing of the state by a checkpoint's."""
        return self._begin(policy_id, tenant_id, Replace(lora=lora, data=data, with_optimizer=with_optimizer))

    def begin_copy(
        self, policy_id: PolicyId, tenant_id: TenantId, *, with_gradient: bool
    ) -> Awaitable[StateCopy]:
        """Queue a copy of the state; a thread of its own writes it."""
        parked = self._begin(policy_id, tenant_id, Copy())
        return self._written(parked, lambda parked: state_copy(parked, with_gradient=with_gradient))

    def begin_export(
        self, policy_id: PolicyId, tenant_id: TenantId, after: ExportFrom
    ) -> Awaitable[StateExport]:
        """Queue an export of the weights; a thread of its own builds it."""
        parked = self._begin(policy_id, tenant_id, Copy())
        return self._written(
            parked,
            lambda parked: state_export(self.facts, policy_id, parked, after, layout=self.layout),
        )

    def _begin(
        self, policy_id: PolicyId, tenant_id: TenantId, work: Work, *, alone: bool = False
    ) -> "asyncio.Future[Any]":  # what the work's kind gives: see `tasks.Done`
        task = PolicyTask(policy_id=policy_id, work=work, done=asyncio.get_running_loop().create_future())
        self._worker.add_task(task, tenant_id, alone=alone)
        return task.done

    async def _written(self, parked: "asyncio.Future[ParkedState]", write: Callable[[ParkedState], T]) -> T:
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
            layout=layout,
        )
        async with asyncio.TaskGroup() as work:
            runner = work.create_task(worker.run())
            try:
                yield ResidentPolicies(base, worker)
            finally:
                runner.cancel()
