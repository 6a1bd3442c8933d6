"""Waves of jobs on tasks: prompts answered by the engines, or by their references, and scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from mint_common.algorithms import Algorithm, Algorithms
from mint_common.blobs.port import Blobs
from mint_common.events import WaveRequested
from mint_common.graders import GraderFault
from mint_common.records import Group, Prompt, WaveRecord, decode_prompts
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.core.dynamic_groups import FurtherDraw, StepGroups, step_groups
from services.rollout.core.grading import error_counts, graded_group
from services.rollout.core.sampling import (
    GroupRequest,
    check_revision,
    logprobs_mode,
    plan_samples,
    record_of,
    reference_group,
)
from services.rollout.core.wave import WaveCounts
from services.rollout.handlers.dynamic_waves import with_further_groups
from services.rollout.handlers.engine_requests import EngineRequests, all_of
from services.rollout.handlers.task_scores import TaskScores
from services.rollout.ports import Tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWaves:
    """Makes records of prompts. Raises TaskFailed on too many faults, see `TaskScores`."""

    blobs: Blobs
    tasks: Tasks
    sampler: EngineSampler
    requests: EngineRequests
    algorithms: Algorithms
    max_faults: float

    async def complete(self, event: WaveRequested) -> tuple[WaveRecord, WaveCounts]:
        """Return the training record of a wave's prompts, and its counts."""
        algorithm = self.algorithms.named(event.spec.algorithm)
        prompts = decode_prompts(await self.blobs.get(event.prompts))
        scores = TaskScores(
            self.tasks,
            event.spec.task,
            tenant_id=event.tenant_id,
            total=len(prompts) * event.spec.group_size,
            max_faults=self.max_faults,
        )
        if event.spec.is_sampled:
            step = await self._sampled(event, algorithm, scores, prompts)
        else:
            step = step_groups(await all_of(self._reference(scores, event, prompt) for prompt in prompts))
        record = record_of(event, logprobs_mode(algorithm), step.kept, replaced=step.replaced)
        return record, WaveCounts(
            grader_errors=error_counts(scores.faults), replaced_groups=len(step.replaced)
        )

    async def _sampled(
        self, event: WaveRequested, algorithm: Algorithm, scores: TaskScores, prompts: Sequence[Prompt]
    ) -> StepGroups:
        async def sample(prompts: Sequence[Prompt], *, begin: int) -> list[Group | None]:
            requests = plan_samples(event, algorithm, prompts, begin=begin)
            pairs = zip(requests, prompts, strict=True)
            return await all_of(self._sample(scores, request, prompt) for request, prompt in pairs)

        async def further(draw: FurtherDraw, _: StepGroups) -> list[Group | None]:
            seed = draw.seed(event.spec, event.step)
            drawn = await self.tasks.draw(
                event.spec.task, "train", draw.count, seed, tenant_id=event.tenant_id
            )
            scores.total += len(drawn) * event.spec.group_size
            return await sample(drawn, begin=draw.begin)

        return await with_further_groups(event.spec, await sample(prompts, begin=0), further)

    async def _sample(self, scores: TaskScores, request: GroupRequest, prompt: Prompt) -> Group | None:
        sampled = await self.requests.retried(request.tenant_id, lambda: self.sampler.sample(request))
        check_revision(request, sampled)
        grades = await scores.grades([(prompt.entry, done.text) for done in sampled.completions])
        return graded_group(sampled, grades).group

    async def _reference(self, scores: TaskScores, event: WaveRequested, prompt: Prompt) -> Group | None:
        (grade,) = await scores.grades([(prompt.entry, prompt.reference)])
        if isinstance(grade, GraderFault):
            return None
        stop_token = partial(self.sampler.stop_token, event.base)
        texts = prompt.text, prompt.reference, ""
        prompt_tokens, answer, start = [await self._tokens(event, text) for text in texts]
        return reference_group(
            prompt,
            prompt_tokens=prompt_tokens,
            answer=answer,
            start=start,
            stop=await self.requests.retried(event.tenant_id, stop_token),
            reward=grade.reward,
        )

    async def _tokens(self, event: WaveRequested, text: str) -> tuple[int, ...]:
        return await self.requests.retried(event.tenant_id, lambda: self.sampler.tokenize(event.base, text))
