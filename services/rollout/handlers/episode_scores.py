"""Score revisions in environments: one episode to each task, run as those of training are.

Invariant: an episode that failed, by its environment or by MinT's own parts, has no score and is counted.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from mint_common.events import EnvironmentSpec
from mint_common.ids import derive_id
from services.rollout.core.environment import EnvironmentTask
from services.rollout.core.episodes import EpisodeBudget
from services.rollout.core.evaluation import EvaluationRun, ScoredRow, ScoredRows, episode_row, prompts_seed
from services.rollout.core.task import derive_seed
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
        """Return the scored rows, by task. Calls ``note`` after each episode."""
        tasks = await self.episodes.environments.draw(
            environment, environment.split, run.n, prompts_seed(run), tenant_id=run.tenant_id
        )
        budget = EpisodeBudget(
            environment=environment.id,
            total=len(tasks),
            max_share=self.max_faults,
            max_tokens=float("inf"),  # only a row of each episode is held
        )
        turns = asyncio.Semaphore(EPISODES_AT_ONCE)

        async def scored(place: int, task: EnvironmentTask) -> ScoredRow:
            async with turns:
                ((trajectory, _),) = await self.episodes.run(
                    environment, task, [_terms(run, environment, place)]
                )
            budget.count(trajectory)
            note()
            return episode_row(place + 1, trajectory)

        rows = await all_of(scored(place, task) for place, task in enumerate(tasks))
        return ScoredRows(rows=rows, episodes=dict(budget.outcomes))


def _terms(run: EvaluationRun, environment: EnvironmentSpec, place: int) -> EpisodeTerms:
    """Return the terms of the episode of a task, which has the same seed in every run with the run's."""
    return EpisodeTerms(
        episode_id=derive_id("ep", run.run_id, place),
        tenant_id=run.tenant_id,
        base=run.base,
        revision=run.revision,
        model=MODEL,
        temperature=run.temperature,
        max_new_tokens=run.max_new_tokens,
        max_turns=environment.max_turns,
        seconds=environment.episode_seconds,
        seed=derive_seed(run.seed, "answer", place),
    )
