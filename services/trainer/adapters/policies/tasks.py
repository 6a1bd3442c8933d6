"""What operations ask of policies in memory: tasks, and carrying them out on the thread that steps.

Invariants: tasks of a policy run in the order in which they were begun; a policy whose state a step spoilt is
not given back, so that nothing goes on from it.
"""

import time
from asyncio import Future
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mint_common.errors import MintError
from mint_common.ids import PolicyId
from mint_common.training import Distilled, Lesson, Pass, Passed, Step, Stepped
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.policies.tiers import PolicyTiers, ResidentPolicy
from services.trainer.adapters.states.training_state import (
    ParkedState,
    TrainingState,
    park_state,
    read_state,
    resume_state,
)
from services.trainer.adapters.training.distillation import run_distillation
from services.trainer.adapters.training.optimizer import SPOILT_WEIGHT, take_steps
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.adapters.training.wave_passes import MeasuredRun
from services.trainer.core.algorithms import WaveBatch
from services.trainer.core.refusals import CheckpointLost, NoGradient, NotFinite
from services.trainer.core.scheduler import Kind
from services.trainer.ports.policies import (
    Clear,
    Copy,
    Distillation,
    ExportWeights,
    PolicyWork,
    Replace,
    TakeStep,
)

Done = Passed | MeasuredRun | Stepped | Distilled | ParkedState | int | None


@dataclass(slots=True, kw_only=True, eq=False)
class PolicyTask:
    """A piece of work that somebody waits for."""

    policy_id: PolicyId
    work: Pass | WaveBatch | PolicyWork[Any]
    done: "Future[Any]"  # what the work's kind gives: see `Done`

    @property
    def kind(self) -> Kind:
        """Return what the scheduler calls it."""
        match self.work:
            case Pass():
                return "forward_backward" if self.work.backward else "forward"
            case WaveBatch():
                return "forward_backward" if self.work.adds_gradient else "forward"
            case TakeStep():
                return "optim_step"
            case Copy() | ExportWeights():
                return "copy"
            case _:
                return "upkeep"

    @property
    def tokens(self) -> int:
        """Return how many tokens it computes."""
        match self.work:
            case Pass():
                return sum(len(datum.tokens) // 4 for datum in self.work.data)
            case WaveBatch():
                return self.work.tokens
            case Distillation():
                return sum(map(_lesson_tokens, self.work.distill.data))
            case _:
                return 0

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
    """Run the tasks of one plan: passes, steps, the rest; return what each gave and the spoilt policies.

    What it took is shared out evenly, so that the seconds of waves add up to those of the trainer.
    """
    started = time.perf_counter()
    results: dict[int, Done | MintError] = {}
    passes = [task for task in tasks if isinstance(task.work, Pass | WaveBatch)]
    asked = [
        PolicyPass(lora=state.lora, step=state.step, work=task.work)
        for task in passes
        if isinstance(task.work, Pass | WaveBatch)
        for state in [tiers.swap_in(residents[task.policy_id])]
    ]
    for task, passed in zip(passes, run_policy_passes(base, asked, max_tokens=max_tokens), strict=True):
        results[id(task)] = passed
    results |= _take_steps(tiers, tasks, residents)
    for task in tasks:
        if id(task) not in results:
            resident = residents[task.policy_id]
            results[id(task)] = _work_on(base, tiers, resident, task.work, max_tokens=max_tokens)
    seconds = (time.perf_counter() - started) / len(residents)
    waves = [task for task in passes if isinstance(task.work, WaveBatch)]
    shares = Counter(task.policy_id for task in waves)
    for task in waves:
        result = results[id(task)]
        share = seconds / shares[task.policy_id]
        if isinstance(result, Passed):
            result.metrics["step_seconds:sum"] = share
        elif isinstance(result, MeasuredRun):
            results[id(task)] = replace(result, seconds=share)
    spoilt = {
        task.policy_id
        for task in tasks
        if isinstance(result := results[id(task)], NotFinite) and result.what == SPOILT_WEIGHT
    }
    return [results[id(task)] for task in tasks], spoilt


def _take_steps(
    tiers: PolicyTiers, tasks: Sequence[PolicyTask], residents: Mapping[PolicyId, ResidentPolicy]
) -> dict[int, Done | MintError]:
    """Take the steps of a plan together, but those that have no gradient where they need one."""
    results: dict[int, Done | MintError] = {}
    due: list[tuple[PolicyTask, TrainingState, Step]] = []
    for task in tasks:
        if isinstance(task.work, TakeStep):
            state = tiers.swap_in(residents[task.policy_id])
            if task.work.needs_gradient and state.lora.leaf.grad is None:
                results[id(task)] = NoGradient(step=state.step + 1)
            else:
                due.append((task, state, task.work.step))
    taken = take_steps([state for _, state, _ in due], [step for _, _, step in due])
    return results | {id(task): one for (task, _, _), one in zip(due, taken, strict=True)}


def _work_on(
    base: ScoringBase, tiers: PolicyTiers, resident: ResidentPolicy, work: object, *, max_tokens: int
) -> Done | MintError:
    if isinstance(work, Replace):
        try:
            state = read_state(base.facts, work.lora, work.data)
        except ValueError as error:
            return CheckpointLost(uri="", problem=str(error))
        resident.state = state if work.with_optimizer else TrainingState(lora=state.lora)
        return resident.state.step
    state = tiers.swap_in(resident)
    if isinstance(work, Distillation):
        return _learn(base, state, work, max_tokens=max_tokens)
    if isinstance(work, Clear):
        state.lora.leaf.grad = None
        return None
    assert isinstance(work, Copy | ExportWeights), work
    return park_state(state)


def _learn(
    base: ScoringBase, state: TrainingState, work: Distillation, *, max_tokens: int
) -> Done | MintError:
    try:
        teacher = resume_state(park_state(read_state(base.facts, work.teacher, work.data)), base.device).lora
    except ValueError as error:
        return CheckpointLost(uri="", problem=str(error))
    return run_distillation(base, state.lora, teacher, work.distill, step=state.step, max_tokens=max_tokens)
