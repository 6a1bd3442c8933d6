"""The episodes of a wave: what each led to, and whether enough of them can be trained on. Pure."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mint_common.bounds import MAX_SAMPLED_TOKENS
from mint_common.errors import TaskFailed
from mint_common.records import Episode, Group, Outcome
from services.rollout.core.environment import MAX_REWARD, EpisodeReport
from services.rollout.core.fault import storable
from services.rollout.core.trajectories import Segment, Trajectory, group_of

ATTEMPTS = 3
"""Attempts at an episode that a failure of MinT's own parts ends; each has the same id and seeds."""
MAX_SCORES = 64
_SHOWN = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeFacts:
    """The record of an attempt at an episode by the model door."""

    segments: tuple[Segment, ...]
    turns: int
    at_limit: bool
    seconds: Mapping[str, float] = field(default_factory=dict)


def ended(report: EpisodeReport, facts: EpisodeFacts) -> Trajectory:
    """Return the trajectory of a reported episode: without a usable reward, one that its environment failed.

    An episode whose model was never called has nothing to train on, so it counts as failed too.
    """
    reward, error = report.reward, report.error
    if not error and (reward is None or not math.isfinite(reward) or abs(reward) > MAX_REWARD):
        error = f"the reward is {reward}, not a number from {-MAX_REWARD:g} to {MAX_REWARD:g}"
    if not error and not facts.segments:
        error = "the environment did not call the model"
    if error:
        return failed("env_error", error, facts)
    scores = {name[:64]: value for name, value in report.scores.items() if math.isfinite(value)}
    return Trajectory(
        episode=Episode(
            outcome="truncated" if report.is_truncated or facts.at_limit else "ok",
            reward=reward,
            scores=dict(list(scores.items())[:MAX_SCORES]),
            seconds=dict(facts.seconds),
            turns=facts.turns,
            stop=storable(report.stop[:_SHOWN]),
        ),
        segments=facts.segments,
    )


def failed(outcome: Outcome, error: str, facts: EpisodeFacts) -> Trajectory:
    """Return an episode that has no reward, and so nothing to train on."""
    episode = Episode(
        outcome=outcome,
        reward=None,
        seconds=dict(facts.seconds),
        turns=facts.turns,
        error=storable(error[:_SHOWN]),
    )
    return Trajectory(episode=episode, segments=())


@dataclass(slots=True, kw_only=True)
class EpisodeBudget:
    """Counts the episodes of a wave or run by outcome; at most ``max_share`` of ``total`` may have no reward.

    ``tokens`` counts those of their segments, contexts too: at most ``max_tokens``, where they are all held.
    The ``total`` may grow.
    """

    environment: str
    total: int
    max_share: float
    max_tokens: float = MAX_SAMPLED_TOKENS
    outcomes: Counter[str] = field(default_factory=Counter)
    tokens: int = 0

    def count(self, trajectory: Trajectory) -> None:
        """Count an episode. Raises TaskFailed as soon as too many have failed, or have too many tokens."""
        episode = trajectory.episode
        self.tokens += sum(len(segment.tokens) for segment in trajectory.segments)
        if self.tokens > self.max_tokens:
            problem = f"the episodes of a step have more than {self.max_tokens:,} tokens"
            raise TaskFailed(task=self.environment, problem=problem)
        self.outcomes[episode.outcome] += 1
        lost = self.outcomes["env_error"] + self.outcomes["infra_error"]
        if episode.reward is None and (lost > self.max_share * self.total or lost >= self.total):
            problem = f"{lost} of {self.total} episodes ended without a reward, such as: "
            raise TaskFailed(task=self.environment, problem=problem + episode.error)


def held_tokens(groups: Sequence[Group]) -> int:
    """Return the tokens of the segments of some groups, contexts too."""
    return sum(len(group.prompt_tokens) + len(one.tokens) for group in groups for one in group.samples)


def trained_group(trajectories: Sequence[Trajectory], *, min_group: int, dtype: str) -> Group | None:
    """Return the group of a task's episodes; None if fewer than ``min_group`` of them have a reward."""
    survivors = sum(each.episode.reward is not None for each in trajectories)
    return group_of(trajectories, dtype=dtype) if survivors >= min_group else None
