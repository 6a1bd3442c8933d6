"""Prompts of rows answered by the engines and graded."""

from collections.abc import Sequence

from mint_common.events import JobData
from mint_common.graders import GradedSample, GraderSpec, read_grader
from services.rollout.core.grading import GradedGroup, graded_group, item_of
from services.rollout.core.sampling import GroupRequest, check_revision
from services.rollout.handlers.engine_requests import EngineRequests, all_of
from services.rollout.ports import Graders, Sampler


class GradedSamples:
    """Samples and grades; engines that are away or full are asked again."""

    def __init__(self, sampler: Sampler, graders: Graders, requests: EngineRequests) -> None:
        self._sampler = sampler
        self._graders = graders
        self._requests = requests

    async def of(
        self, data: JobData, requests: Sequence[GroupRequest], lines: Sequence[bytes]
    ) -> list[GradedGroup]:
        """Return the answers to each request, whose prompt is that of the row in its line."""
        spec = read_grader(data.grader)
        pairs = zip(requests, lines, strict=True)
        return await all_of(self._group(spec, request, line) for request, line in pairs)

    async def _group(self, spec: GraderSpec, request: GroupRequest, line: bytes) -> GradedGroup:
        sampled = await self._requests.retried(lambda: self._sampler.sample(request))
        check_revision(request, sampled)
        item = item_of(line)
        samples = [GradedSample(output_text=each.text, item=item) for each in sampled.completions]
        grades = await self._graders.grade(spec, samples, tenant_id=request.tenant_id)
        return graded_group(sampled, grades)
