"""The outcome of a job that took all its steps: whether it trained anything, and whether the reward
collapsed.

A step has no signal when all answers to each of its prompts had the same reward: there is no preference,
and the adapter does not change. Rewards are those of `Task.reward`; a reference answer gets 1.0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import Literal

from mint_common.events import JobSpec
from services.rollout.core.progress import best_revision
from services.rollout.core.wave import Wave

MANY_IDLE = 0.5
"""Share of steps without a signal from which a success mentions them."""

MAX_WINDOW = 10
"""Maximum waves over which rewards are averaged; it is a quarter of the job's waves if that is less."""

MAX_IDLE_STEPS, MAX_IDLE_GROUPS = 10, 128
"""Consecutive steps and prompts without a learning signal after which a job ends."""
MAX_IDLE_ENVIRONMENT_STEPS = 3
"""Consecutive steps without a signal after which a job in an environment ends: its episodes are costly."""

LOST_SHARE = 0.5
"""A collapse loses at least this share of the best reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """The end of a job; a success that needs attention has a ``reason`` too."""

    outcome: Literal["succeeded", "failed"]
    reason: str


def judge(spec: JobSpec, waves: Sequence[Wave]) -> JobEnd:
    """Return the end of a job that has taken every step; ``waves`` are all of its own, by step."""
    idle = [wave for wave in waves if is_idle(wave)]
    if idle and len(idle) == len(waves):
        return JobEnd(outcome="failed", reason=f"nothing was trained: {_no_signal(idle, waves)}")
    if not spec.is_sampled:
        return JobEnd(outcome="succeeded", reason="")
    notes = [_collapse(spec, waves)]
    if idle and len(idle) >= MANY_IDLE * len(waves):
        notes.append(_no_signal(idle, waves))
    return JobEnd(outcome="succeeded", reason="; ".join(note for note in notes if note))


def is_idle(wave: Wave) -> bool:
    """Return whether a step trained on nothing, by the trainer's count."""
    return has_no_signal(wave.metrics)


def has_no_signal(metrics: Mapping[str, float]) -> bool:
    """Return whether a step with these metrics trained on nothing."""
    return metrics.get("trained_tokens") == 0


def idle_stop(spec: JobSpec, *, steps_done: int, idle_steps: int) -> JobEnd | None:
    """Return the end of a job whose newest ``idle_steps`` had no signal, None if it goes on.

    Rewards that were equal `MAX_IDLE_GROUPS` times in a row stay so: a task that the policy never solves, or
    always. A round of dynamic sampling counts as a step: one without a signal has had all of its rounds.
    """
    rounds = idle_steps * (1 + (spec.dynamic_sampling.max_extra if spec.dynamic_sampling else 0))
    groups = rounds * spec.prompts_per_step
    steps, prompts = MAX_IDLE_STEPS, MAX_IDLE_GROUPS
    if spec.environment is not None:
        steps, prompts = MAX_IDLE_ENVIRONMENT_STEPS, 0
    if not spec.is_sampled or rounds < steps or groups < prompts:
        return None
    reason = (
        f"no learning signal: in the last {idle_steps} steps all answers to each of {groups} prompts had the"
        " same reward"
    )
    return JobEnd(outcome="failed" if idle_steps == steps_done else "succeeded", reason=reason)


def _no_signal(idle: Sequence[Wave], waves: Sequence[Wave]) -> str:
    mean = fmean(wave.reward_mean or 0.0 for wave in idle)
    return (
        f"{len(idle)} of {len(waves)} steps had no signal: all answers to each prompt had the same reward"
        f" (mean {mean:.3g})"
    )


def _collapse(spec: JobSpec, waves: Sequence[Wave]) -> str:
    """Return the message of a collapsed reward, or nothing."""
    rewards = [wave.reward_mean for wave in waves if wave.reward_mean is not None]
    window = min(MAX_WINDOW, max(1, len(rewards) // 4))
    if not has_collapsed(rewards, window=window, prompts=spec.prompts_per_step):
        return ""
    means, best = _means(rewards, window), best_revision(waves)
    kept = f"; the best revision is {best.number} (reward {best.reward:.3g})" if best else ""
    return (
        f"the reward collapsed: {max(means):.3g} at its best, {means[-1]:.3g} at the end,"
        f" at a learning rate of {spec.learning_rate:g}{kept}"
    )


def has_collapsed(rewards: Sequence[float], *, window: int, prompts: int) -> bool:
    """Return whether the last ``window`` rewards are far below the best ones in a row, beyond chance.

    Chance is two standard errors of the difference of two means, each over ``window`` x ``prompts`` rewards
    of the largest variance that rewards from 0 to 1 can have (0.25).
    """
    means = _means(rewards, window)
    if not means:
        return False
    best, end = max(means), means[-1]
    chance = 2 * sqrt(2 * 0.25 / (window * prompts))
    return best > 0 and best - end >= max(LOST_SHARE * best, chance)


def _means(rewards: Sequence[float], window: int) -> list[float]:
    """Return the mean of each ``window`` of neighbouring rewards."""
    return [fmean(rewards[end - window : end]) for end in range(window, len(rewards) + 1)]
