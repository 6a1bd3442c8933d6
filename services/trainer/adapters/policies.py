"""Policies over the resident base, worked on by one thread of their own.

Invariant: what is in memory under a checkpoint's digest equals that checkpoint. A step changes the digest; a
step that fails forgets the policy, so a half-done one is never continued from.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from mint_common.adapters_format import build_adapter
from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.claims import Claim
from mint_common.events import LoraSpec
from mint_common.ids import Digest, PolicyId
from services.trainer.adapters.lora import folded_arrays
from services.trainer.adapters.resident_base import ResidentBase, load_base
from services.trainer.adapters.stepping import Work, step_policies
from services.trainer.adapters.training_state import TrainingState, new_state, read_state, write_state
from services.trainer.core.batch import Batch
from services.trainer.core.refusals import CheckpointLost, NotFinite
from services.trainer.ports import Stepped, StepSettings

T = TypeVar("T")


@dataclass(slots=True)
class _Resident:
    state: TrainingState
    sha256: str | None


class ResidentPolicies:
    """`Policies` of one process. The least recently used ones beyond ``capacity`` leave memory."""

    def __init__(
        self, base: ResidentBase, pool: ThreadPoolExecutor, *, capacity: int, max_tokens: int
    ) -> None:
        self._base = base
        self._pool = pool
        self._capacity = capacity
        self._max_tokens = max_tokens
        self._resident: OrderedDict[PolicyId, _Resident] = OrderedDict()

    @property
    def facts(self) -> BaseFacts:
        """Return the base's facts."""
        return self._base.facts

    def holds(self, policy_id: PolicyId, checkpoint: Claim | None) -> bool:
        """Return whether the policy is in memory exactly as that checkpoint says."""
        resident = self._resident.get(policy_id)
        return resident is not None and resident.sha256 == (checkpoint.sha256 if checkpoint else None)

    async def restore(
        self, policy_id: PolicyId, lora: LoraSpec, *, checkpoint: Claim | None, data: bytes | None
    ) -> None:
        """Put a policy into memory from a checkpoint's bytes, or as initialised."""
        self._resident.pop(policy_id, None)
        try:
            if checkpoint is None or data is None:
                state = await self._run(lambda: new_state(self.facts, lora))
            else:
                state = await self._run(lambda: read_state(self.facts, lora, data))
        except ValueError as error:
            raise CheckpointLost(uri=checkpoint.uri if checkpoint else "", problem=str(error)) from error
        self._resident[policy_id] = _Resident(state, checkpoint.sha256 if checkpoint else None)
        while len(self._resident) > self._capacity:
            self._resident.popitem(last=False)

    async def step(
        self, policy_id: PolicyId, batch: Batch, settings: StepSettings, *, parent: Digest | None
    ) -> Stepped:
        """Take one optimizer step on a resident policy and export it."""
        resident = self._resident.pop(policy_id)
        stepped, sha256 = await self._run(lambda: self._step(policy_id, resident, batch, settings, parent))
        self._resident[policy_id] = _Resident(resident.state, sha256)
        return stepped

    def _step(
        self,
        policy_id: PolicyId,
        resident: _Resident,
        batch: Batch,
        settings: StepSettings,
        parent: Digest | None,
    ) -> tuple[Stepped, str | None]:
        started = time.perf_counter()
        state = resident.state
        work = Work(state=state, batch=batch, settings=settings)
        (metrics,) = step_policies(self._base, [work], max_tokens=self._max_tokens)
        if isinstance(metrics, NotFinite):
            raise metrics
        metrics["step_seconds"] = time.perf_counter() - started
        checkpoint = write_state(state) if batch.rows else None
        adapter = build_adapter(
            facts=self.facts,
            policy_id=policy_id,
            step=state.step,
            parent=parent,
            rank=state.lora.rank,
            tensors=folded_arrays(state.lora),
        )
        metrics["seconds"] = time.perf_counter() - started
        stepped = Stepped(step=state.step, checkpoint=checkpoint, adapter=adapter, metrics=metrics)
        sha256 = resident.sha256 if checkpoint is None else hashlib.sha256(checkpoint).hexdigest()
        return stepped, sha256

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


@asynccontextmanager
async def open_policies(
    folder: Path, *, threads: int, capacity: int, max_tokens: int
) -> AsyncIterator[ResidentPolicies]:
    """Load a base in a thread of its own and yield its policies; leaving waits for the step in hand."""
    pool = ThreadPoolExecutor(1, "trainer", initializer=torch.set_num_threads, initargs=(threads,))
    try:
        base = await asyncio.get_running_loop().run_in_executor(pool, load_base, folder)
        yield ResidentPolicies(base, pool, capacity=capacity, max_tokens=max_tokens)
    finally:
        pool.shutdown(cancel_futures=True)
