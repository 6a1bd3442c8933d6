"""Waves of jobs on environments: episodes run by others' code, trained from what the model door recorded."""

from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.blobs.port import Blobs
from mint_common.errors import TaskFailed
from mint_common.events import EnvironmentSpec, WaveRequested
from mint_common.ids import derive_id
from mint_common.records import Group, WaveRecord, decode_prompts
from services.rollout.core.difficulty import outcomes_of
from services.rollout.core.dynamic_groups import FurtherDraw, StepGroups
from services.rollout.core.environment import EnvironmentTask, EpisodePlace
from services.rollout.core.episodes import EpisodeBudget, held_tokens, trained_group
from services.rollout.core.row_groups import trained_tokens
from services.rollout.core.sampling import record_of
from services.rollout.core.task import derive_seed
from services.rollout.core.trajectories import Trajectory
from services.rollout.core.wave import WaveCounts
from services.rollout.handlers.dynamic_waves import with_further_groups
from services.rollout.handlers.engine_requests import all_of
from services.rollout.handlers.episode_runs import MODEL, EpisodeRunner
from services.rollout.handlers.open_episode import EpisodeTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentWaves:
    """Makes records of episodes. Raises TaskFailed when more than ``max_faults`` of a wave's have no reward.

    ``max_faults`` is a share.
    """

    blobs: Blobs
    episodes: EpisodeRunner
    max_faults: float

    async def complete(
        self, event: WaveRequested, environment: EnvironmentSpec
    ) -> tuple[WaveRecord, WaveCounts]:
        """Return the training record of a wave's episodes, and its counts."""
        prompts = decode_prompts(await self.blobs.get(event.prompts))
        tasks = [EnvironmentTask(key=prompt.text, entry=prompt.entry) for prompt in prompts]
        found = await self.episodes.environments.describe(
            environment, environment.split, tenant_id=event.tenant_id
        )
        wave = _Episodes(self, event, environment, by_group=found.by_group, tasks=len(tasks))

        async def further(draw: FurtherDraw, step: StepGroups) -> list[Group | None]:
            more = await self.episodes.environments.draw(
                environment,
                environment.split,
                draw.count,
                draw.seed(event.spec, event.step),
                tenant_id=event.tenant_id,
            )
            wave.budget.tokens = held_tokens(step.kept)
            wave.budget.total += len(more) * event.spec.group_size
            return await wave.groups(more, begin=draw.begin)

        step = await with_further_groups(event.spec, await wave.groups(tasks, begin=0), further)
        if not step.kept:
            problem = f"no group of the step has {environment.min_group} episodes with a reward"
            raise TaskFailed(task=environment.id, problem=problem)
        record = record_of(event, "processed", step.kept, replaced=step.replaced)
        counts = WaveCounts(
            trained_tokens=trained_tokens(step.kept),
            episodes=dict(wave.budget.outcomes),
            dropped_groups=step.failed,
            replaced_groups=len(step.replaced),
            left_out_segments=sum(each.left_out for group in step.kept for each in group.episodes),
            differing=wave.differing if event.spec.difficulty else {},
        )
        return record, counts


class _Episodes:
    """The episodes of one wave."""

    def __init__(
        self,
        parts: EnvironmentWaves,
        event: WaveRequested,
        environment: EnvironmentSpec,
        *,
        by_group: bool,
        tasks: int,
    ) -> None:
        self._parts = parts
        self._event = event
        self._environment = environment
        self._by_group = by_group
        self.differing: dict[str, bool] = {}
        self.budget = EpisodeBudget(
            environment=environment.id,
            total=tasks * event.spec.group_size,
            max_share=parts.max_faults,
        )

    async def groups(self, tasks: Sequence[EnvironmentTask], *, begin: int) -> list[Group | None]:
        """Return the group of each task, None if too few of its episodes have a reward.

        The tasks are numbered from ``begin`` within the wave.
        """
        groups = await all_of(self._group(index, task) for index, task in enumerate(tasks, begin))
        self.differing |= outcomes_of(tasks, groups)
        return groups

    async def _group(self, task_index: int, task: EnvironmentTask) -> Group | None:
        size = self._event.spec.group_size
        together = [range(size)] if self._by_group else [range(at, at + 1) for at in range(size)]
        ran = await all_of(self._together(task, self._terms(task_index, each)) for each in together)
        trajectories = [one for some in ran for one, _ in some]
        dtype = next((dtype for some in ran for _, dtype in some if dtype), "")
        return trained_group(trajectories, min_group=self._environment.min_group, dtype=dtype)

    def _terms(self, task_index: int, samples: range) -> list[EpisodeTerms]:
        event, spec, environment = self._event, self._event.spec, self._environment
        return [
            EpisodeTerms(
                episode_id=derive_id("ep", event.wave_id, task_index, sample),
                tenant_id=event.tenant_id,
                base=event.base,
                revision=event.revision,
                model=MODEL,
                temperature=spec.temperature,
                max_new_tokens=spec.max_new_tokens,
                max_turns=environment.max_turns,
                seconds=environment.episode_seconds,
                seed=derive_seed(spec.seed, "episode", event.step, task_index, sample),
                place=self._place(task_index, sample),
            )
            for sample in samples
        ]

    def _place(self, task_index: int, sample: int) -> EpisodePlace:
        event, spec = self._event, self._event.spec
        return EpisodePlace(
            job_id=event.job_id,
            wave_id=event.wave_id,
            step=event.step,
            group=task_index,
            sample=sample,
            group_size=spec.group_size,
            index=(event.step - 1) * spec.prompts_per_step + task_index,
            seed=derive_seed(spec.seed, "group", event.step, task_index),
        )

    async def _together(
        self, task: EnvironmentTask, terms: Sequence[EpisodeTerms]
    ) -> list[tuple[Trajectory, str]]:
        """Return the trajectories of episodes that one call runs, counted; each with its sampler's dtype."""
        ran = await self._parts.episodes.run(self._environment, task, terms)
        for trajectory, _ in ran:
            self.budget.count(trajectory)
        return ran
