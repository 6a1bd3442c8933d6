"""Episodes of environments, run to their ends: their model calls are answered and recorded at the door.

Invariant: a failure of MinT's own parts is no result. Such episodes run again with the same ids and seeds.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

from mint_common.events import EnvironmentSpec
from mint_common.records import Outcome
from services.rollout.core.environment import (
    EnvironmentFault,
    Environments,
    EnvironmentTask,
    EpisodeCall,
    EpisodeReport,
)
from services.rollout.core.episodes import ATTEMPTS, EpisodeFacts, ended, failed
from services.rollout.core.trajectories import Trajectory
from services.rollout.handlers.episode_turns import EpisodeTurns
from services.rollout.handlers.model_door import ModelDoor
from services.rollout.handlers.open_episode import EpisodeTerms, OpenEpisode

log = logging.getLogger(__name__)

MODEL = "policy"
"""Name of the model that an environment calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRunner:
    """Runs episodes, of waves and of evaluation runs.

    ``turns`` admits them, except those that agents elsewhere run, which may wait for long.
    """

    environments: Environments
    door: ModelDoor
    turns: EpisodeTurns

    async def run(
        self, environment: EnvironmentSpec, task: EnvironmentTask, terms: Sequence[EpisodeTerms]
    ) -> list[tuple[Trajectory, str]]:
        """Return the trajectories of episodes that one call runs, each with its sampler's dtype.

        A failure of MinT's own parts is no result: all of them run again, once an engine answers.
        """
        first = terms[0]
        for attempt in range(1, ATTEMPTS + 1):
            await self.door.until_answered(first.base, tenant_id=first.tenant_id)
            turn = nullcontext() if environment.is_session else self.turns.turn(first.base, first.tenant_id)
            async with turn:
                ran = await self._attempt(environment, task, terms)
            if not ran.problem or attempt == ATTEMPTS:
                break
            told = {"episode_id": first.episode_id, "attempt": attempt, "problem": ran.problem}
            log.warning("episode repeated", extra=told)
        return ran.trajectories

    async def _attempt(
        self, environment: EnvironmentSpec, task: EnvironmentTask, terms: Sequence[EpisodeTerms]
    ) -> "_Attempt":
        clock = self.door.parts.clock
        with ExitStack() as stack:
            opened = [stack.enter_context(self.door.opened(each)) for each in terms]
            calls = [self._call(each, path) for each, (path, _) in zip(terms, opened, strict=True)]
            episodes = [episode for _, episode in opened]
            began = clock.monotonic()
            result: Sequence[EpisodeReport] | EnvironmentFault
            try:
                result = await self.environments.run(environment, task, calls, tenant_id=terms[0].tenant_id)
            except EnvironmentFault as fault:
                result = fault
            return _attempt_of(episodes, result, seconds=clock.monotonic() - began)

    def _call(self, terms: EpisodeTerms, path: str) -> EpisodeCall:
        return EpisodeCall(
            place=terms.place,
            episode_id=terms.episode_id,
            path=path,
            socket=str(self.door.socket),
            model=terms.model,
            temperature=terms.temperature,
            max_new_tokens=terms.max_new_tokens,
            max_turns=terms.max_turns,
            seed=terms.seed,
        )


@dataclass(frozen=True, slots=True)
class _Attempt:
    """Trajectories, each with its sampler's dtype; a ``problem`` of MinT's own parts makes them void."""

    trajectories: list[tuple[Trajectory, str]]
    problem: str


def _attempt_of(
    episodes: Sequence[OpenEpisode], result: Sequence[EpisodeReport] | EnvironmentFault, *, seconds: float
) -> _Attempt:
    """Return what an attempt led to; a worker's fault is MinT's own if a call of the model had one."""
    for each in episodes:
        each.note_unanswered()
    faults = [str(each.fault) for each in episodes if each.fault is not None]
    if isinstance(result, EnvironmentFault):
        if not faults and result.whose == "infrastructure":
            faults = [str(result)]
        outcome: Outcome = "infra_error" if faults else "env_error"
        problem = faults[0] if faults else str(result)
        ran = [failed(outcome, problem, _facts(each, seconds)) for each in episodes]
    else:
        ran = [
            ended(report, _facts(each, seconds if report.seconds is None else report.seconds))
            if each.fault is None
            else failed("infra_error", str(each.fault), _facts(each, seconds))
            for report, each in zip(result, episodes, strict=True)
        ]
    trajectories = [(one, each.dtype) for one, each in zip(ran, episodes, strict=True)]
    return _Attempt(trajectories, faults[0] if faults else "")


def _facts(episode: OpenEpisode, seconds: float) -> EpisodeFacts:
    model = episode.model_seconds
    return EpisodeFacts(
        segments=episode.segments,
        turns=episode.turns,
        at_limit=episode.at_limit,
        seconds={"model": model, "environment": max(0.0, seconds - model)},
    )
