"""Waves of jobs on environments: episodes run by others' code, trained from what the model door recorded."""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from mint_common.blobs.port import Blobs
from mint_common.errors import TaskFailed
from mint_common.events import EnvironmentSpec, WaveRequested
from mint_common.ids import derive_id
from mint_common.records import Group, Outcome, WaveRecord, decode_prompts
from mint_common.runtime.fair_gate import FairGate
from services.rollout.core.environment import (
    EnvironmentFault,
    Environments,
    EnvironmentTask,
    EpisodeCall,
    EpisodeReport,
)
from services.rollout.core.episodes import (
    ATTEMPTS,
    EpisodeBudget,
    EpisodeFacts,
    ended,
    failed,
    trained_group,
)
from services.rollout.core.row_groups import trained_tokens
from services.rollout.core.sampling import record_of
from services.rollout.core.task import derive_seed
from services.rollout.core.trajectories import Trajectory
from services.rollout.core.wave import WaveCounts
from services.rollout.handlers.engine_requests import all_of
from services.rollout.handlers.model_door import ModelDoor
from services.rollout.handlers.open_episode import EpisodeTerms, OpenEpisode

log = logging.getLogger(__name__)

MODEL = "policy"
"""Name of the model that an environment calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentWaves:
    """Makes records of episodes. Raises TaskFailed when more than ``max_faults`` of a wave's have no reward.

    ``turns`` admits episodes; ``max_faults`` is a share.
    """

    blobs: Blobs
    environments: Environments
    door: ModelDoor
    turns: FairGate
    max_faults: float

    async def complete(
        self, event: WaveRequested, environment: EnvironmentSpec
    ) -> tuple[WaveRecord, WaveCounts]:
        """Return the training record of a wave's episodes, and its counts."""
        prompts = decode_prompts(await self.blobs.get(event.prompts))
        tasks = [EnvironmentTask(key=prompt.text, entry=prompt.entry) for prompt in prompts]
        found = await self.environments.describe(environment, environment.split, tenant_id=event.tenant_id)
        wave = _Episodes(self, event, environment, by_group=found.by_group, tasks=len(tasks))
        groups = await all_of(wave.group(index, task) for index, task in enumerate(tasks))
        kept = [group for group in groups if group is not None]
        if not kept:
            problem = f"no group of the step has {environment.min_group} episodes with a reward"
            raise TaskFailed(task=environment.id, problem=problem)
        record = record_of(event, "processed", kept)
        counts = WaveCounts(
            trained_tokens=trained_tokens(kept),
            episodes=dict(wave.budget.outcomes),
            dropped_groups=len(groups) - len(kept),
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
        self.budget = EpisodeBudget(
            environment=environment.id,
            total=tasks * event.spec.group_size,
            max_share=parts.max_faults,
        )

    async def group(self, task_index: int, task: EnvironmentTask) -> Group | None:
        """Return the group of one task; None if too few of its episodes have a reward."""
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
            )
            for sample in samples
        ]

    async def _together(
        self, task: EnvironmentTask, terms: Sequence[EpisodeTerms]
    ) -> list[tuple[Trajectory, str]]:
        """Return the trajectories of episodes that one call runs, each with its sampler's dtype.

        A failure of MinT's own parts is no result: all of them run again, once an engine answers.
        """
        for attempt in range(1, ATTEMPTS + 1):
            await self._parts.door.until_answered(self._event.base, tenant_id=self._event.tenant_id)
            async with self._parts.turns.turn(self._event.tenant_id):
                ran = await self._attempt(task, terms)
            if not ran.problem or attempt == ATTEMPTS:
                break
            told = {"episode_id": terms[0].episode_id, "attempt": attempt, "problem": ran.problem}
            log.warning("episode repeated", extra=told)
        for trajectory, _ in ran.trajectories:
            self.budget.count(trajectory)
        return ran.trajectories

    async def _attempt(self, task: EnvironmentTask, terms: Sequence[EpisodeTerms]) -> "_Attempt":
        with ExitStack() as stack:
            opened = [stack.enter_context(self._parts.door.opened(each)) for each in terms]
            calls = [self._call(each, path) for each, (path, _) in zip(terms, opened, strict=True)]
            episodes = [episode for _, episode in opened]
            began = time.monotonic()
            try:
                reports = await self._parts.environments.run(
                    self._environment, task, calls, tenant_id=self._event.tenant_id
                )
            except EnvironmentFault as fault:
                return _attempt_of(episodes, fault, seconds=time.monotonic() - began)
            return _attempt_of(episodes, reports, seconds=time.monotonic() - began)

    def _call(self, terms: EpisodeTerms, path: str) -> EpisodeCall:
        return EpisodeCall(
            episode_id=terms.episode_id,
            path=path,
            socket=str(self._parts.door.socket),
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
            ended(report, _facts(each, seconds))
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
