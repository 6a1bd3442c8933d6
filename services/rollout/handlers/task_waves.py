"""Waves of jobs on tasks: prompts answered by the engines, or by their references, and scored."""

from dataclasses import dataclass
from functools import partial

from mint_common.algorithms import Algorithms
from mint_common.blobs.port import Blobs
from mint_common.events import WaveRequested
from mint_common.graders import GraderFault
from mint_common.records import Group, Prompt, WaveRecord, decode_prompts
from services.rollout.adapters.engine_sampler import EngineSampler
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
            pairs = zip(plan_samples(event, algorithm, prompts), prompts, strict=True)
            groups = await all_of(self._sample(scores, request, prompt) for request, prompt in pairs)
        else:
            groups = await all_of(self._reference(scores, event, prompt) for prompt in prompts)
        record = record_of(event, logprobs_mode(algorithm), [group for group in groups if group is not None])
        return record, WaveCounts(grader_errors=error_counts(scores.faults))

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
