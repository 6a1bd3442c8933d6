"""Tasks of operations on policies in memory, and their execution on the compute thread.

Invariants: tasks of a policy run in the order in which they were begun; a policy whose state a step spoilt is
not given back, so that nothing continues from it.
"""

import time
from asyncio import Future
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mint_common.errors import MintError
from mint_common.ids import PolicyId
from mint_common.training import Distilled, Pass, Passed, Step, Stepped
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.policies.tiers import PolicyTiers, ResidentPolicy
from services.trainer.adapters.states.training_state import (
    ParkedState,
    TrainingState,
    park_state,
    read_state,
    resume_state,
)
from services.trainer.adapters.training.distillation import distillation_runs, lesson_targets, lesson_tokens
from services.trainer.adapters.training.optimizer import SPOILT_WEIGHT, take_steps
from services.trainer.adapters.training.policy_passes import PolicyPass, policy_pass_runs, run_policy_passes
from services.trainer.adapters.training.runs import Runs, complete
from services.trainer.core.policy_work import (
    Clear,
    Copy,
    Distillation,
    ExportWeights,
    PolicyWork,
    Replace,
    TakeStep,
)
from services.trainer.core.refusals import CheckpointLost, NoGradient, NotFinite
from services.trainer.core.scheduler import Kind
from services.trainer.core.wave_batch import WaveBatch

Done = Passed | Stepped | Distilled | ParkedState | int | None


@dataclass(slots=True, kw_only=True)
class OpenRuns:
    """Work that is computed in runs: ``lora`` has the policy's leaf, whose tensor changes when swapped.

    ``tokens`` are those of the last run, ``seconds`` those of all runs.
    """

    lora: LoraTensors
    runs: Runs[Done | MintError]
    tokens: int = 0
    seconds: float = 0.0


class Unfinished:
    """The result of a run before the last."""


@dataclass(slots=True, kw_only=True, eq=False)
class PolicyTask:
    """A piece of work that somebody waits for; ``open_runs`` is there between two of its runs."""

    policy_id: PolicyId
    work: Pass | WaveBatch | PolicyWork[Any]
    done: "Future[Any]"  # what the work's kind gives: see `Done`
    open_runs: OpenRuns | None = None

    @property
    def kind(self) -> Kind:
        """Return the scheduler's name of the task."""
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

    def tokens(self, base: ScoringBase) -> int:
        """Return how many tokens it computes."""
        match self.work:
            case Pass():
                return sum(len(datum.tokens) // 4 for datum in self.work.data)
            case WaveBatch():
                return self.work.tokens
            case Distillation():
                max_targets = lesson_targets(base.logits_targets)
                return sum(lesson_tokens(one, max_targets=max_targets) for one in self.work.distill.data)
            case _:
                return 0

    def settle(self, result: object) -> None:
        """Give the result to the waiting caller, if there is one."""
        if self.done.done():
            return
        if isinstance(result, BaseException):
            self.done.set_exception(result)
        else:
            self.done.set_result(result)


CarryOut = Callable[..., tuple[Sequence[object], set[PolicyId]]]
"""`carry_out` or `carry_out_run`: does tasks; returns what each gave and the spoilt policies."""


def carry_out(
    base: ScoringBase,
    tiers: PolicyTiers,
    tasks: Sequence[PolicyTask],
    residents: Mapping[PolicyId, ResidentPolicy],
    *,
    max_tokens: int,
) -> tuple[list[Done | MintError], set[PolicyId]]:
    """Run the tasks of one plan: passes, steps, the rest; return each result and the spoilt policies.

    The time is divided evenly, so that the seconds of waves add up to those of the trainer.
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
    shares = Counter(task.policy_id for task in passes if isinstance(task.work, WaveBatch))
    for task in passes:
        _note_seconds(task.work, results[id(task)], seconds / max(1, shares[task.policy_id]))
    spoilt = {
        task.policy_id
        for task in tasks
        if isinstance(result := results[id(task)], NotFinite) and result.what == SPOILT_WEIGHT
    }
    return [results[id(task)] for task in tasks], spoilt


def carry_out_run(
    base: ScoringBase,
    tiers: PolicyTiers,
    tasks: Sequence[PolicyTask],
    residents: Mapping[PolicyId, ResidentPolicy],
    *,
    max_tokens: int,
) -> tuple[list[Done | MintError | Unfinished], set[PolicyId]]:
    """Do the next run of one task; a cancelled one removes what it has added to the gradient."""
    started = time.perf_counter()
    (task,) = tasks
    state = tiers.swap_in(residents[task.policy_id])
    if task.open_runs is None:
        lora = replace(state.lora)
        runs = _runs_of(base, replace(state, lora=lora), task.work, max_tokens=max_tokens)
        task.open_runs = OpenRuns(lora=lora, runs=runs)
    opened = task.open_runs
    opened.lora.leaf = state.lora.leaf
    result: Done | MintError | Unfinished = Unfinished()
    try:
        if task.done.done():
            opened.runs.close()
        else:
            opened.tokens = next(opened.runs)
    except StopIteration as ended:
        opened.tokens, result = 0, ended.value
    opened.seconds += time.perf_counter() - started
    _note_seconds(task.work, result, opened.seconds)
    return [result], set()


def _runs_of(
    base: ScoringBase, state: TrainingState, work: object, *, max_tokens: int
) -> Runs[Done | MintError]:
    if isinstance(work, Distillation):
        return (yield from _lesson_runs(base, state, work, max_tokens=max_tokens))
    assert isinstance(work, Pass | WaveBatch), work
    asked = PolicyPass(lora=state.lora, step=state.step, work=work)
    (result,) = yield from policy_pass_runs(base, [asked], max_tokens=max_tokens)
    return result


def _note_seconds(work: object, result: object, seconds: float) -> None:
    """Add the time of a wave's pass to its result."""
    if isinstance(work, WaveBatch) and isinstance(result, Passed):
        result.metrics["step_seconds:sum" if work.backward else "valid_seconds:sum"] = seconds


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
        return complete(_lesson_runs(base, state, work, max_tokens=max_tokens))
    if isinstance(work, Clear):
        state.lora.leaf.grad = None
        return None
    assert isinstance(work, Copy | ExportWeights), work
    return park_state(state)


def _lesson_runs(
    base: ScoringBase, state: TrainingState, work: Distillation, *, max_tokens: int
) -> Runs[Done | MintError]:
    try:
        teacher = resume_state(park_state(read_state(base.facts, work.teacher, work.data)), base.device).lora
    except ValueError as error:
        return CheckpointLost(uri="", problem=str(error))
    learnt = distillation_runs(
        base, state.lora, teacher, work.distill, step=state.step, max_tokens=max_tokens
    )
    return (yield from learnt)
