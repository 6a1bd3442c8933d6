"""Prompts of rows answered by the engines and graded."""

import asyncio
from collections.abc import Sequence

from mint_common.events import JobData
from mint_common.graders import Grade, GradedSample, GraderFault, GraderSpec, read_grader
from mint_common.ids import TenantId
from services.rollout.core.grading import GradedGroup, check_budget, graded_group, item_of
from services.rollout.core.sampling import GroupRequest, check_revision
from services.rollout.handlers.engine_requests import EngineRequests, all_of
from services.rollout.ports import Graders, Sampler

TOGETHER = 4
"""Samples that are graded in one call: all of them, before it is known how many failed."""
CALLS = 16
"""For one wave at a time."""


class GradedSamples:
    """Samples and grades; engines that are away or full are asked again.

    It ends as soon as graders have failed on more than ``most_faults``, a share of all samples.
    """

    def __init__(
        self, sampler: Sampler, graders: Graders, requests: EngineRequests, *, most_faults: float
    ) -> None:
        self._sampler = sampler
        self._graders = graders
        self._requests = requests
        self._most_faults = most_faults

    async def of(
        self, data: JobData, requests: Sequence[GroupRequest], lines: Sequence[bytes]
    ) -> list[GradedGroup]:
        """Return the answers to each request, whose prompt is that of the row in its line.

        Raises DataRefused on too many faults.
        """
        total = sum(request.n for request in requests)
        grading = _Grading(
            self._graders, read_grader(data.grader), total=total, most_faults=self._most_faults
        )
        pairs = zip(requests, lines, strict=True)
        return await all_of(self._group(grading, request, line) for request, line in pairs)

    async def _group(self, grading: "_Grading", request: GroupRequest, line: bytes) -> GradedGroup:
        sampled = await self._requests.retried(lambda: self._sampler.sample(request))
        check_revision(request, sampled)
        item = item_of(line)
        samples = [GradedSample(output_text=each.text, item=item) for each in sampled.completions]
        return graded_group(sampled, await grading.grade(samples, request.tenant_id))


class _Grading:
    """The grading of one wave, of ``total`` samples."""

    def __init__(self, graders: Graders, spec: GraderSpec, *, total: int, most_faults: float) -> None:
        self._graders = graders
        self._spec = spec
        self._total = total
        self._most_faults = most_faults
        self._faults: list[GraderFault] = []
        self._calls = asyncio.Semaphore(CALLS)

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
            grades = await self._graders.grade(self._spec, samples, tenant_id=tenant_id)
        self._faults += (grade for grade in grades if isinstance(grade, GraderFault))
        self._check()
        return grades

    def _check(self) -> None:
        check_budget(self._faults, total=self._total, most_share=self._most_faults)
