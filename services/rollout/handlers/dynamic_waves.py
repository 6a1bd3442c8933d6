"""Dynamic sampling of a wave, the same for tasks, files and environments."""

from collections.abc import Awaitable, Callable, Sequence

from mint_common.events import JobSpec
from mint_common.records import Group
from services.rollout.core.dynamic_groups import FurtherDraw, StepGroups, step_groups

SampleFurther = Callable[[FurtherDraw, StepGroups], Awaitable[Sequence[Group | None]]]
"""Samples further prompts of a step, given its groups so far; None is a prompt that failed."""


async def with_further_groups(
    spec: JobSpec, groups: Sequence[Group | None], further: SampleFurther
) -> StepGroups:
    """Return a step's groups once no round is left, or nothing is to be replaced.

    After each round all but those that are kept are forgotten: no more than two steps' groups are held.
    """
    step = step_groups(groups)
    while (draw := step.next_draw(spec)) is not None:
        step = step.filled(await further(draw, step))
    return step
