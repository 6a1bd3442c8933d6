"""Score revisions in environments: episodes of each task, run as those of training are.

Invariant: an episode that failed, by its environment or by MinT's own parts, has no score and is counted.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mint_common.events import EnvironmentSpec
from mint_common.ids import derive_id
from services.rollout.core.environment import EnvironmentTask
from services.rollout.core.episodes import EpisodeBudget
from services.rollout.core.evaluation import (
    EvaluationRun,
    ScoredRow,
    ScoredRows,
    episode_seed,
    prompts_seed,
    task_row,
)
from services.rollout.core.trajectories import Trajectory
from services.rollout.handlers.engine_requests import all_of
from services.rollout.handlers.episode_runs import MODEL, EpisodeRunner
from services.rollout.handlers.open_episode import EpisodeTerms

EPISODES_AT_ONCE = 64
"""Episodes that a run has at a time; leaves turns to the waves of jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeScores:
    """Scores the tasks of runs. Raises NotFound, and TaskFailed when more than ``max_faults`` have no reward.

    ``max_faults`` is a share.
    """

    episodes: EpisodeRunner
    max_faults: float

    async def rows(
        self, run: EvaluationRun, environment: EnvironmentSpec, note: Callable[[], None]
    ) -> ScoredRows:
        """Return the scored rows, by task. Calls ``note`` after each task."""
        environments = self.episodes.environments
        found = await environments.describe(environment, environment.split, tenant_id=run.tenant_id)
        tasks = await environments.draw(
            environment, environment.split, run.n, prompts_seed(run), tenant_id=run.tenant_id
        )
        budget = EpisodeBudget(
            environment=environment.id,
            total=len(tasks) * run.samples,
            max_share=self.max_faults,
            max_tokens=float("inf"),  # only a row of each task is held
        )
        together = run.samples if found.by_group else 1
        turns = asyncio.Semaphore(max(1, EPISODES_AT_ONCE // together))

        async def ran(task: EnvironmentTask, terms: Sequence[EpisodeTerms]) -> list[Trajectory]:
            async with turns:
                ended = [each for each, _ in await self.episodes.run(environment, task, terms)]
            for trajectory in ended:
                budget.count(trajectory)
            return ended

        async def scored(place: int, task: EnvironmentTask) -> ScoredRow:
            terms = [_terms(run, environment, place, sample) for sample in range(run.samples)]
            parts = [terms[at : at + together] for at in range(0, len(terms), together)]
            ended = await all_of(ran(task, part) for part in parts)
            note()
            return task_row(place + 1, [each for part in ended for each in part])

        rows = await all_of(scored(place, task) for place, task in enumerate(tasks))
        return ScoredRows(rows=rows, episodes=dict(budget.outcomes))


def _terms(run: EvaluationRun, environment: EnvironmentSpec, place: int, sample: int) -> EpisodeTerms:
    """Return the terms of an episode of a task."""
    names = (place,) if sample == 0 else (place, sample)
    return EpisodeTerms(
        episode_id=derive_id("ep", run.run_id, *names),
        tenant_id=run.tenant_id,
        base=run.base,
        revision=run.revision,
        model=MODEL,
        temperature=run.temperature,
        max_new_tokens=run.max_new_tokens,
        max_turns=environment.max_turns,
        seconds=environment.episode_seconds,
        seed=episode_seed(run, place, sample),
    )
