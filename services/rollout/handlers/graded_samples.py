"""Prompts of rows answered by the engines and graded."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.events import JobData
from mint_common.graders import Grade, GradedSample, GraderFault, GraderSpec, read_grader
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.graders.runner import GraderRunner
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.core.grading import GradedGroup, check_budget, graded_group, item_of
from services.rollout.core.sampling import GroupRequest, check_revision
from services.rollout.handlers.engine_requests import EngineRequests, all_of

TOGETHER = 4
"""Samples that are graded in one call: all of them, before it is known how many failed."""
CALLS = 16
"""Maximum concurrent grader calls of one wave."""


_UNANSWERED = "model_grader_server_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingLimits:
    """Limits at which the grading of a wave is abandoned.

    It fails as soon as graders have failed on more than ``max_faults``, a share of all its samples. A model
    that has not answered for ``unanswered_seconds`` gets no more requests: the other samples
    have the same fault.
    """

    max_faults: float
    unanswered_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedSamples:
    """Samples and grades; engines that are away or full are asked again."""

    sampler: EngineSampler
    graders: GraderRunner
    requests: EngineRequests
    clock: Clock
    limits: GradingLimits

    async def of(
        self,
        data: JobData,
        requests: Sequence[GroupRequest],
        lines: Sequence[bytes],
        *,
        earlier: int = 0,
    ) -> list[GradedGroup]:
        """Return the answers to each request, whose prompt is that of the row in its line.

        Raises DataRefused on too many faults; ``earlier`` samples of the same step were graded before.
        """
        spec = read_grader(data.grader)
        total = earlier + sum(request.n for request in requests)
        grading = _Grading(self.graders, spec, self.clock, limits=self.limits, total=total)
        pairs = zip(requests, lines, strict=True)
        return await all_of(self._group(grading, request, line) for request, line in pairs)

    async def _group(self, grading: "_Grading", request: GroupRequest, line: bytes) -> GradedGroup:
        sampled = await self.requests.retried(request.tenant_id, lambda: self.sampler.sample(request))
        check_revision(request, sampled)
        item = item_of(line)
        samples = [GradedSample(output_text=each.text, item=item) for each in sampled.completions]
        return graded_group(sampled, await grading.grade(samples, request.tenant_id))


class _Grading:
    """The grading of one wave, of ``total`` samples."""

    def __init__(
        self, graders: GraderRunner, spec: GraderSpec, clock: Clock, *, limits: GradingLimits, total: int
    ) -> None:
        self._graders = graders
        self._spec = spec
        self._clock = clock
        self._limits = limits
        self._total = total
        self._faults: list[GraderFault] = []
        self._calls = asyncio.Semaphore(CALLS)
        self._answered_at = clock.monotonic()
        self._given_up: GraderFault | None = None

    async def grade(self, samples: Sequence[GradedSample], tenant_id: TenantId) -> list[Grade | GraderFault]:
        """Return the grades of some of the samples, in order. Raises DataRefused on too many faults."""
        found = await all_of(
            self._some(samples[begin : begin + TOGETHER], tenant_id)
            for begin in range(0, len(samples), TOGETHER)
        )
        return [grade for some in found for grade in some]

    async def _some(self, samples: Sequence[GradedSample], tenant_id: TenantId) -> list[Grade | GraderFault]:
        async with self._calls:
            self._check()
            grades = await self._call(samples, tenant_id)
        self._faults += (grade for grade in grades if isinstance(grade, GraderFault))
        self._check()
        return grades

    async def _call(self, samples: Sequence[GradedSample], tenant_id: TenantId) -> list[Grade | GraderFault]:
        if self._given_up is not None:
            return [self._given_up] * len(samples)
        began = self._clock.monotonic()
        grades = await self._graders.grade(self._spec, samples, tenant_id=tenant_id)
        now = self._clock.monotonic()
        faults = [grade for grade in grades if isinstance(grade, GraderFault) and grade.kind == _UNANSWERED]
        if len(faults) < len(grades):
            self._answered_at = now
        elif now - max(began, self._answered_at) >= self._limits.unanswered_seconds:
            self._given_up = faults[0]
        return grades

    def _check(self) -> None:
        check_budget(self._faults, total=self._total, max_share=self._limits.max_faults)
