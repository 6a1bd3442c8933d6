"""Dynamic sampling: the groups of a step, and which further prompts take the place of some. Pure.

A group whose episodes all had the same reward teaches nothing (Yu et al. 2025, DAPO, arXiv 2503.14476,
section 3.2). Each round draws as many prompts as there are such groups; each of those that come back with
differing rewards replaces one. After the last round the step trains on what there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mint_common.events import JobSpec
from mint_common.records import Group, ReplacedGroup, episode_rewards, rewards_differ
from services.rollout.core.task import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class FurtherDraw:
    """Further prompts of a step: ``count`` of them, numbered from ``begin`` within it."""

    round: int
    begin: int
    count: int

    def seed(self, spec: JobSpec, step: int) -> int:
        """Return the seed of their draw, which is the same if the step is sampled again."""
        return derive_seed(spec.seed, "prompts", step, "further", self.round)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGroups:
    """The groups of a step after some rounds; ``prompts`` were sampled for them, ``failed`` gave no group."""

    kept: tuple[Group, ...]
    prompts: int
    failed: int
    rounds: int = 0
    replaced: tuple[ReplacedGroup, ...] = ()

    def next_draw(self, spec: JobSpec) -> FurtherDraw | None:
        """Return the next round, None if there is nothing to replace, or no round left."""
        rounds = spec.dynamic_sampling.max_extra if spec.dynamic_sampling else 0
        idle = sum(not rewards_differ(group) for group in self.kept)
        if not idle or self.rounds >= rounds:
            return None
        return FurtherDraw(round=self.rounds + 1, begin=self.prompts, count=idle)

    def filled(self, groups: Sequence[Group | None]) -> "StepGroups":
        """Return the step after a round that gave these groups, None for prompts that failed."""
        kept, left_out = list(self.kept), list[Group]()
        found = [group for group in groups if group is not None]
        for group in found:
            if rewards_differ(group):
                place = next(place for place, own in enumerate(kept) if not rewards_differ(own))
                left_out.append(kept[place])
                kept[place] = group
            else:
                left_out.append(group)
        return replace(
            self,
            kept=tuple(kept),
            prompts=self.prompts + len(groups),
            failed=self.failed + len(groups) - len(found),
            rounds=self.rounds + 1,
            replaced=(*self.replaced, *map(_replaced, left_out)),
        )


def step_groups(groups: Sequence[Group | None]) -> StepGroups:
    """Return the groups of a step's own prompts, None for those that failed."""
    kept = tuple(group for group in groups if group is not None)
    return StepGroups(kept=kept, prompts=len(groups), failed=len(groups) - len(kept))


def _replaced(group: Group) -> ReplacedGroup:
    rewards = [*episode_rewards(group).values()]
    return ReplacedGroup(reward=rewards[0], episodes=len(rewards))
