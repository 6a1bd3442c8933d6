"""Waves on the threads of a trainer: the step, and the export of what it left."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.adapters_format import build_adapter
from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.ids import Digest, PolicyId
from services.trainer.adapters.lora.tensors import folded_arrays
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.policies.tiers import PolicyTiers, ResidentPolicy
from services.trainer.adapters.states.training_state import ParkedState, park_state, write_parked
from services.trainer.adapters.training.stepping import Work, step_policies
from services.trainer.core.batch import Batch
from services.trainer.core.refusals import NotFinite
from services.trainer.ports.policies import StepResult, StepSettings


@dataclass(slots=True, kw_only=True, eq=False)
class WaveStep:
    """A step that somebody waits for, with the state that it owns."""

    policy_id: PolicyId
    resident: ResidentPolicy
    batch: Batch
    settings: StepSettings
    parent: Digest | None
    done: "asyncio.Future[StepResult]"

    @property
    def tokens(self) -> int:
        """Return how many tokens it computes."""
        return sum(row.length for row in self.batch.rows or self.batch.probe)

    def fail(self, error: BaseException) -> None:
        """Tell who still waits."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class SteppedWave:
    """A policy as a step left it; the next batch may start while it is exported."""

    parked: ParkedState
    metrics: dict[str, float]


def step_waves(
    base: ScoringBase, tiers: PolicyTiers, jobs: Sequence[WaveStep], *, max_tokens: int
) -> list[SteppedWave | NotFinite]:
    """Step the policies of some jobs as one batch."""
    started = time.perf_counter()
    works = [Work(state=tiers.swap_in(job.resident), batch=job.batch, settings=job.settings) for job in jobs]
    results = step_policies(base, works, max_tokens=max_tokens)
    # What the batch took, shared out evenly: the seconds of policies add up to those of the trainer.
    seconds = (time.perf_counter() - started) / len(jobs)
    return [
        metrics
        if isinstance(metrics, NotFinite)
        else SteppedWave(parked=park_state(work.state), metrics={**metrics, "step_seconds": seconds})
        for work, metrics in zip(works, results, strict=True)
    ]


def export_wave(
    facts: BaseFacts, job: WaveStep, left: SteppedWave, *, layout: str
) -> tuple[StepResult, str | None]:
    """Build checkpoint and export; return them with the digest of the checkpoint that the policy equals."""
    started = time.perf_counter()
    checkpoint, sha256 = None, job.resident.sha256
    if job.batch.rows:
        checkpoint = write_parked(left.parked)
        sha256 = hashlib.sha256(checkpoint).hexdigest()
    adapter = build_adapter(
        facts=facts,
        policy_id=job.policy_id,
        step=left.parked.step,
        parent=job.parent,
        rank=left.parked.rank,
        tensors=folded_arrays(left.parked.lora),
        layout=layout,
    )
    seconds = left.metrics["step_seconds"] + time.perf_counter() - started
    metrics = {**left.metrics, "seconds": seconds}
    stepped = StepResult(step=left.parked.step, checkpoint=checkpoint, adapter=adapter, metrics=metrics)
    return stepped, sha256
