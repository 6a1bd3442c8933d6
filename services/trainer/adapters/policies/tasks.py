"""What operations ask of policies in memory: tasks, and carrying them out on the thread that steps.

Invariants: tasks of a policy run in the order in which they were begun; a policy whose state a step spoilt is
not given back, so that nothing goes on from it.
"""

from asyncio import Future
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mint_common.errors import MintError
from mint_common.events import LoraSpec
from mint_common.ids import PolicyId
from mint_common.training import Distill, Distilled, Lesson, Pass, Passed, Step
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.policies.tiers import PolicyTiers, ResidentPolicy
from services.trainer.adapters.states.training_state import (
    ParkedState,
    TrainingState,
    park_state,
    read_state,
    resume_state,
    without_optimizer,
)
from services.trainer.adapters.training.client_passes import ClientPass, run_client_passes
from services.trainer.adapters.training.distillation import run_distillation
from services.trainer.adapters.training.optimizer import SPOILT_WEIGHT, take_steps
from services.trainer.core.refusals import CheckpointLost, NotFinite
from services.trainer.core.scheduler import Kind
from services.trainer.ports.policies import StepTaken


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Copy the state for another thread to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear:
    """Drop the accumulated gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Take over a checkpoint's state."""

    lora: LoraSpec
    data: bytes
    with_optimizer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillTask:
    """Distill from the weights of a checkpoint."""

    distill: Distill
    teacher: LoraSpec
    data: bytes


Work = Pass | Step | Copy | Clear | Replace | DistillTask
Done = Passed | StepTaken | Distilled | ParkedState | int | None


@dataclass(slots=True, kw_only=True, eq=False)
class PolicyTask:
    """A piece of work that somebody waits for."""

    policy_id: PolicyId
    work: Work
    done: "Future[Any]"  # what the work's kind gives: see `Done`

    @property
    def kind(self) -> Kind:
        """Return what the scheduler calls it."""
        if isinstance(self.work, Pass):
            return "forward_backward" if self.work.backward else "forward"
        return "optim_step" if isinstance(self.work, Step) else "upkeep"

    @property
    def tokens(self) -> int:
        """Return how many tokens it computes."""
        work = self.work
        if isinstance(work, DistillTask):
            return sum(map(_lesson_tokens, work.distill.data))
        return sum(len(datum.tokens) // 4 for datum in work.data) if isinstance(work, Pass) else 0

    def settle(self, result: object) -> None:
        """Tell who still waits."""
        if self.done.done():
            return
        if isinstance(result, BaseException):
            self.done.set_exception(result)
        else:
            self.done.set_result(result)


def _lesson_tokens(lesson: Lesson) -> int:
    prompts = len(lesson.student_tokens) // 4 + len(lesson.teacher_tokens) // 4
    return prompts + 2 * (lesson.target_tokens.shape[0] - 1)


def carry_out(
    base: ScoringBase,
    tiers: PolicyTiers,
    tasks: Sequence[PolicyTask],
    residents: Mapping[PolicyId, ResidentPolicy],
    *,
    max_tokens: int,
) -> tuple[list[Done | MintError], set[PolicyId]]:
    """Run the tasks of one plan, passes first; return what each gave and the policies that are spoilt."""
    results: dict[int, Done | MintError] = {}
    spoilt: set[PolicyId] = set()
    passes = [task for task in tasks if isinstance(task.work, Pass)]
    works = [
        ClientPass(lora=state.lora, step=state.step, work=task.work)
        for task in passes
        if isinstance(task.work, Pass)
        for state in [tiers.swap_in(residents[task.policy_id])]
    ]
    for task, passed in zip(passes, run_client_passes(base, works, max_tokens=max_tokens), strict=True):
        results[id(task)] = passed
    for task in tasks:
        if not isinstance(task.work, Pass):
            resident = residents[task.policy_id]
            result = _work_on(base, tiers, resident, task.work, max_tokens=max_tokens)
            results[id(task)] = result
            if isinstance(result, NotFinite) and result.what == SPOILT_WEIGHT:
                spoilt.add(task.policy_id)
    return [results[id(task)] for task in tasks], spoilt


def _work_on(
    base: ScoringBase, tiers: PolicyTiers, resident: ResidentPolicy, work: Work, *, max_tokens: int
) -> Done | MintError:
    if isinstance(work, Replace):
        try:
            state = read_state(base.facts, work.lora, work.data)
        except ValueError as error:
            return CheckpointLost(uri="", problem=str(error))
        resident.state = state if work.with_optimizer else without_optimizer(state)
        return resident.state.step
    state = tiers.swap_in(resident)
    if isinstance(work, Step):
        (taken,) = take_steps([state], [work])
        return taken
    if isinstance(work, DistillTask):
        return _learn(base, state, work, max_tokens=max_tokens)
    if isinstance(work, Clear):
        state.lora.leaf.grad = None
        return None
    assert isinstance(work, Copy), work
    return park_state(state)


def _learn(
    base: ScoringBase, state: TrainingState, work: DistillTask, *, max_tokens: int
) -> Done | MintError:
    try:
        teacher = resume_state(park_state(read_state(base.facts, work.teacher, work.data)), base.device).lora
    except ValueError as error:
        return CheckpointLost(uri="", problem=str(error))
    return run_distillation(base, state.lora, teacher, work.distill, step=state.step, max_tokens=max_tokens)
