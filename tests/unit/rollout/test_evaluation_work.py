"""Evaluation runs as they are carried out: an error of ours ends one run, and not the service."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from mint_common.errors import TaskFailed, Unavailable
from mint_common.ids import TenantId
from services.rollout.core.evaluation import EvaluationRun, RunState, ScoredRow
from services.rollout.handlers.engine_requests import EngineRequests
from services.rollout.handlers.evaluations import EvaluationHandler
from tests.testing.clock import ManualClock
from tests.unit.rollout.test_evaluation import RUN
from tests.unit.rollout.world import LocalTasks, ScriptedEngine

RUN_OF_BASE = replace(RUN, revision=None, policy_id=None)


@dataclass
class WaitingRuns:
    """Runs that wait to be carried out; ``troubles`` are raised one a call of `finish`."""

    waiting: list[EvaluationRun]
    troubles: list[Exception] = field(default_factory=list)
    ended: dict[str, EvaluationRun] = field(default_factory=dict)

    async def claim(self, *, before: float, now: float, of_a_tenant: int) -> EvaluationRun | None:
        return self.waiting.pop(0) if self.waiting else None

    async def touch(self, run_id: str, *, scored: int, now: float) -> bool:
        return True

    async def finish(self, run: EvaluationRun, rows: Sequence[ScoredRow]) -> None:
        if self.troubles:
            raise self.troubles.pop(0)
        self.ended[run.run_id] = run


@dataclass
class ScriptedRewards(LocalTasks):
    """The tasks of this process; `rewards` are given to the answers in turn."""

    rewards: Sequence[float | Exception] = ()

    def __post_init__(self) -> None:
        super().__init__()
        self._left = list(self.rewards)

    async def score(
        self, name: str, answers: Sequence[tuple[str, str]], *, tenant_id: TenantId
    ) -> list[float]:
        found = self._left.pop(0) if self._left else 1.0
        if isinstance(found, Exception):
            raise found
        return [found] * len(answers)


async def carry_out(runs: WaitingRuns, tasks: LocalTasks, *, count: int) -> None:
    clock = ManualClock(1000.0)
    handler = EvaluationHandler(
        runs=runs,  # type: ignore[arg-type]  # only what the work on runs needs of them
        tasks=tasks,
        sampler=ScriptedEngine(),  # type: ignore[arg-type]  # no run here reads a row's loss
        files=None,  # type: ignore[arg-type]  # no run here is of a file
        episodes=None,  # type: ignore[arg-type]  # nor in an environment
        scores=None,  # type: ignore[arg-type]  # nothing is recorded of the bare base
        requests=EngineRequests(clock, in_flight=4),
        clock=clock,
        stall_seconds=20.0,
        error_share=0.1,
    )
    work = asyncio.create_task(handler.run())
    while len(runs.ended) < count and not work.done():
        await clock.advance(0.5)
    if work.done():
        await work
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


@pytest.mark.parametrize(
    ("rewards", "kind"),
    [((1e200, 0.0), "OverflowError"), ((ZeroDivisionError("ours"),), "ZeroDivisionError")],
)
async def test_an_error_of_ours_fails_its_run_is_logged_and_hurts_no_other_run(
    rewards: Sequence[float | Exception], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    runs = WaitingRuns([RUN_OF_BASE])
    tasks = ScriptedRewards(rewards=rewards)
    await carry_out(runs, tasks, count=1)
    ended = runs.ended[RUN.run_id]
    assert (ended.state, ended.reason) == (RunState.FAILED, f"internal error: {kind}")
    (logged,) = [vars(record) for record in caplog.records if record.levelname == "ERROR"]
    assert (logged["message"], logged["run_id"]) == ("evaluation run failed", RUN.run_id)
    assert logged["error"].startswith(f"{kind} at ")
    assert "ours" not in str(logged)
    runs.waiting.append(replace(RUN_OF_BASE, run_id="evr_2"))
    await carry_out(runs, tasks, count=2)
    assert runs.ended["evr_2"].state is RunState.SUCCEEDED


def hung() -> TaskFailed:
    return TaskFailed(task="mode:copy", problem="scoring 1 texts took more than 60 s")


async def test_a_verifier_that_hangs_costs_a_row_and_more_than_its_budget_the_run() -> None:
    runs = WaitingRuns([replace(RUN_OF_BASE, n=20)])
    await carry_out(runs, ScriptedRewards(rewards=[1.0, hung(), 0.5]), count=1)
    ended = runs.ended[RUN.run_id]
    assert (ended.state, ended.scored, ended.grader_errors) == (RunState.SUCCEEDED, 19, {"other_error": 1})
    runs.waiting.append(replace(RUN_OF_BASE, n=20, run_id="evr_2"))
    await carry_out(runs, ScriptedRewards(rewards=[hung()] * 3), count=2)
    assert runs.ended["evr_2"].state is RunState.FAILED
    assert "no reward for at least 3 of 20 samples" in runs.ended["evr_2"].reason


async def test_a_run_whose_end_cannot_be_stored_fails() -> None:
    runs = WaitingRuns([RUN_OF_BASE], troubles=[ValueError("invalid byte sequence")])
    await carry_out(runs, LocalTasks(), count=1)
    ended = runs.ended[RUN.run_id]
    assert (ended.state, ended.reason, ended.value) == (RunState.FAILED, "internal error: ValueError", None)


async def test_a_database_that_is_away_fails_no_run() -> None:
    runs = WaitingRuns([RUN_OF_BASE] * 2, troubles=[Unavailable(what="postgres", problem="away")])
    await carry_out(runs, LocalTasks(), count=1)
    assert runs.ended[RUN.run_id].state is RunState.SUCCEEDED
