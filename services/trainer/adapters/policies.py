"""Policies over the resident base, worked on by one thread of their own.

Whatever is ready when the thread is free is planned together (`core/scheduler.py`) and stepped as one batch;
a second thread exports what was stepped.
Invariants: what is in memory under a checkpoint's digest equals that checkpoint; a step changes the digest. A
step owns its policy's state from the call on, and gives it back only if it succeeds and somebody still waits
for it: a half-done or an unwanted one is never continued from.
"""

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from prometheus_client import Histogram

from mint_common.adapters_format import build_adapter
from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.claims import Claim
from mint_common.events import LoraSpec
from mint_common.ids import Digest, PolicyId, TenantId
from services.trainer.adapters.lora import folded_arrays
from services.trainer.adapters.scoring import ScoringBase
from services.trainer.adapters.stepping import Work, step_policies
from services.trainer.adapters.tiers import Resident, Tiers
from services.trainer.adapters.training_state import (
    ParkedState,
    new_state,
    park_state,
    read_state,
    write_parked,
)
from services.trainer.core.batch import Batch
from services.trainer.core.refusals import CheckpointLost, NotFinite
from services.trainer.core.scheduler import Limits, Operation, Schedule
from services.trainer.ports import Stepped, StepSettings, Swaps, Tier

T = TypeVar("T")

BATCH_POLICIES = Histogram(
    "mint_trainer_batch_policies", "Policies of one batched step.", buckets=(1, 2, 4, 8, 16, 32)
)


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    """A step that somebody waits for, with the state that it owns."""

    policy_id: PolicyId
    resident: Resident
    batch: Batch
    settings: StepSettings
    parent: Digest | None
    done: "asyncio.Future[Stepped]"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    """A policy as a step left it; the next batch may start while it is exported."""

    parked: ParkedState
    metrics: dict[str, float]


class ResidentPolicies:
    """`Policies` of one process."""

    def __init__(
        self,
        base: ScoringBase,
        *,
        stepper: ThreadPoolExecutor,
        exporter: ThreadPoolExecutor,
        tiers: Tiers,
        limits: Limits,
        max_tokens: int,
    ) -> None:
        self._base = base
        self._stepper = stepper
        self._exporter = exporter
        self._tiers = tiers
        self._limits = limits
        self._max_tokens = max_tokens
        self._schedule = Schedule()
        self._jobs: dict[int, _Job] = {}
        self._numbers = itertools.count()
        self._news = asyncio.Event()

    @property
    def facts(self) -> BaseFacts:
        """Return the base's facts."""
        return self._base.facts

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
        try:
            if checkpoint is None or data is None:
                state = await self._run(lambda: new_state(self.facts, lora))
            else:
                state = await self._run(lambda: read_state(self.facts, lora, data))
        except ValueError as error:
            raise CheckpointLost(uri=checkpoint.uri if checkpoint else "", problem=str(error)) from error
        surplus = self._tiers.put(policy_id, Resident(state, checkpoint.sha256 if checkpoint else None))
        await self._swap_out(surplus)

    async def step(
        self,
        policy_id: PolicyId,
        batch: Batch,
        settings: StepSettings,
        *,
        tenant_id: TenantId,
        parent: Digest | None,
    ) -> Stepped:
        """Take one optimizer step on a resident policy, with others that are ready, and export it."""
        job = _Job(
            policy_id=policy_id,
            resident=self._tiers.take(policy_id),
            batch=batch,
            settings=settings,
            parent=parent,
            done=asyncio.get_running_loop().create_future(),
        )
        number = next(self._numbers)
        self._jobs[number] = job
        operation = Operation(
            policy_id=policy_id,
            tenant_id=tenant_id,
            seq=number,
            kind="forward_backward",
            rank=job.resident.state.rank,
            tokens=sum(row.length for row in batch.rows or batch.probe),
        )
        self._schedule = self._schedule.add(operation)
        self._news.set()
        return await job.done

    async def run(self) -> None:
        """Carry out plans until cancelled; exports go on beside them."""
        async with asyncio.TaskGroup() as exports:
            await self._plan_on(exports)

    async def _plan_on(self, exports: asyncio.TaskGroup) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._schedule.waiting:
                busy = [job for job in self._jobs.values() if job.resident.tier == "device"]
                on_device = [*self._tiers.on_device(), *(job.policy_id for job in busy)]
                plan, self._schedule = self._schedule.plan(self._limits, on_device=on_device)
                leaving = [job.resident for job in busy if job.policy_id in plan.swap_out]
                await self._swap_out([*self._tiers.find(plan.swap_out), *leaving])
                jobs = [self._jobs.pop(operation.seq) for operation in plan.batch]
                await self._carry_out(jobs, exports)

    async def _carry_out(self, jobs: Sequence[_Job], exports: asyncio.TaskGroup) -> None:
        jobs = [job for job in jobs if not job.done.done()]
        if not jobs:
            return
        BATCH_POLICIES.observe(len(jobs))
        # A fault of the machinery is everyone's result; each policy is restored and tried again.
        (results,) = await asyncio.gather(self._run(lambda: self._step(jobs)), return_exceptions=True)
        each = itertools.repeat(results) if isinstance(results, BaseException) else results
        for job, result in zip(jobs, each, strict=False):
            if isinstance(result, BaseException):
                _fail(job, result)
            else:
                exports.create_task(self._finish(job, result))

    def _step(self, jobs: Sequence[_Job]) -> list[_Snapshot | NotFinite]:
        started = time.perf_counter()
        works = [
            Work(state=self._tiers.swap_in(job.resident), batch=job.batch, settings=job.settings)
            for job in jobs
        ]
        results = step_policies(self._base, works, max_tokens=self._max_tokens)
        # What the batch took, shared out evenly: the seconds of policies add up to those of the trainer.
        seconds = (time.perf_counter() - started) / len(jobs)
        return [
            metrics
            if isinstance(metrics, NotFinite)
            else _Snapshot(parked=park_state(work.state), metrics={**metrics, "step_seconds": seconds})
            for work, metrics in zip(works, results, strict=True)
        ]

    async def _finish(self, job: _Job, snapshot: _Snapshot) -> None:
        """Export a snapshot beside the next batch, then answer."""
        work = asyncio.get_running_loop().run_in_executor(self._exporter, self._export, job, snapshot)
        (result,) = await asyncio.gather(work, return_exceptions=True)
        if isinstance(result, BaseException):
            _fail(job, result)
        elif not job.done.done():
            stepped, job.resident.sha256 = result
            await self._swap_out(self._tiers.put(job.policy_id, job.resident))
            job.done.set_result(stepped)

    def _export(self, job: _Job, snapshot: _Snapshot) -> tuple[Stepped, str | None]:
        started = time.perf_counter()
        parked = snapshot.parked
        checkpoint, sha256 = None, job.resident.sha256
        if job.batch.rows:
            checkpoint = write_parked(parked)
            sha256 = hashlib.sha256(checkpoint).hexdigest()
        adapter = build_adapter(
            facts=self.facts,
            policy_id=job.policy_id,
            step=parked.step,
            parent=job.parent,
            rank=parked.rank,
            tensors=folded_arrays(parked.lora),
        )
        seconds = snapshot.metrics["step_seconds"] + time.perf_counter() - started
        metrics = {**snapshot.metrics, "seconds": seconds}
        return Stepped(step=parked.step, checkpoint=checkpoint, adapter=adapter, metrics=metrics), sha256

    async def _swap_out(self, residents: Sequence[Resident]) -> None:
        if residents:
            await self._run(lambda: self._tiers.swap_out(residents))
            self._tiers.trim()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._stepper, work)


def _fail(job: _Job, error: BaseException) -> None:
    if not job.done.done():
        job.done.set_exception(error)


@asynccontextmanager
async def open_policies(
    load: Callable[[], ScoringBase], *, threads: int, limits: Limits, host_policies: int, max_tokens: int
) -> AsyncIterator[ResidentPolicies]:
    """Load a base in a thread of its own and yield its policies; leaving waits for the step in hand."""
    with (
        ThreadPoolExecutor(1, "trainer", torch.set_num_threads, (threads,)) as stepper,
        ThreadPoolExecutor(1, "exporter", torch.set_num_threads, (1,)) as exporter,
    ):
        base = await asyncio.get_running_loop().run_in_executor(stepper, load)
        policies = ResidentPolicies(
            base,
            stepper=stepper,
            exporter=exporter,
            tiers=Tiers(device_policies=limits.device_policies, host_policies=host_policies),
            limits=limits,
            max_tokens=max_tokens,
        )
        async with asyncio.TaskGroup() as work:
            runner = work.create_task(policies.run())
            try:
                yield policies
            finally:
                runner.cancel()
