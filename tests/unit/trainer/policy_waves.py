"""Waves of policies on the tiny base, as their drivers begin them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from msgspec import structs

from mint_common.ids import PolicyId, TenantId
from mint_common.records import WaveRecord
from mint_common.training import Datum, Passed, Stepped
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.model.scoring import TokenScores
from services.trainer.adapters.policies.resident_policies import ResidentPolicies, open_policies
from services.trainer.core.batch import build_grpo_batch
from services.trainer.core.operations import ExportLineage
from services.trainer.core.policy_work import Copy, ExportWeights, StateExport, TakeStep
from services.trainer.core.scheduler import SchedulerLimits
from services.trainer.core.wave_operations import adam_step

from .managed import StepSettings, wave_batch
from .test_passes import floats

GRPO = StepSettings(algorithm="grpo", learning_rate=2e-3, kl_coefficient=0.0, clip_norm=1.0)
ADAM = adam_step(learning_rate=2e-3, clip_norm=1.0)
A, B, C, D = (PolicyId(f"policy_{letter}") for letter in "abcd")
TENANT = TenantId("t")
LIMITS = SchedulerLimits(max_tokens=4096, max_policies=2, device_policies=2)
FIRST = ExportLineage(digest=None, parent=None)
MakeRecord = Callable[..., WaveRecord]


class CountingBase(ResidentBase):
    """A base that notes how many lines each micro-batch has."""

    read: list[int]

    def score(self, lines: Sequence[Any], *args: Any, **options: Any) -> TokenScores:
        """Score, after a note."""
        self.read.append(len(lines))
        return super().score(lines, *args, **options)


@asynccontextmanager
async def policies_of(
    folder: Path, *, batch_tokens: int, device_policies: int, read: list[int] | None = None
) -> AsyncIterator[ResidentPolicies]:
    """Open policies with micro-batches of 16 tokens, which are counted in ``read``."""

    def load() -> ResidentBase:
        base = load_base(folder)
        base.__class__ = CountingBase
        cast("CountingBase", base).read = [] if read is None else read
        return base

    limits = SchedulerLimits(max_tokens=batch_tokens, max_policies=1, device_policies=device_policies)
    async with open_policies(load, threads=1, limits=limits, host_policies=1, max_tokens=16) as policies:
        yield policies


def replace_inputs(datum: Datum, *, logprobs: float) -> Datum:
    """Return a datum whose sampler's log-probabilities are all one number."""
    (length,) = datum.inputs["target_tokens"].shape
    return structs.replace(datum, inputs={**datum.inputs, "logprobs": floats(np.full(length, logprobs))})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedWave:
    """What a wave came to."""

    passed: Passed
    taken: Stepped | None
    export: StateExport


async def begin_wave(
    policies: ResidentPolicies, record: WaveRecord, *, policy_id: PolicyId = A
) -> list[object]:
    """Begin pass, step and export of a wave at once, as its driver does; return what each comes to."""
    batch = build_grpo_batch(record)
    begun = [policies.begin_pass(policy_id, TENANT, wave_batch(batch, GRPO))]
    if batch.rows:
        begun.append(policies.begin(policy_id, TENANT, TakeStep(step=ADAM, needs_gradient=True)))
    begun.append(policies.begin(policy_id, TENANT, ExportWeights(after=FIRST)))
    return await asyncio.gather(*begun, return_exceptions=True)


async def step(policies: ResidentPolicies, record: WaveRecord, *, policy_id: PolicyId = A) -> TrainedWave:
    passed, *taken, export = await begin_wave(policies, record, policy_id=policy_id)
    assert isinstance(passed, Passed)
    assert isinstance(export, StateExport)
    (step,) = taken or (None,)
    assert step is None or isinstance(step, Stepped)
    return TrainedWave(passed=passed, taken=step, export=export)


async def state_of(policies: ResidentPolicies, policy_id: PolicyId = A) -> bytes:
    return await policies.begin(policy_id, TENANT, Copy(with_gradient=True))


def wild(record: WaveRecord) -> WaveRecord:
    """Return a record whose loss is not finite."""
    group = record.groups[0]
    samples = tuple(replace(s, logprobs=(-1e4,) * len(s.tokens)) for s in group.samples)
    return replace(record, groups=(replace(group, samples=samples),))
