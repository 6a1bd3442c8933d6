"""Revisions scored in environments: by runs of their own, and while a job trains there."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from mint_common.errors import InvalidField
from mint_common.events import EvaluationPlan, WaveRequested
from mint_common.job_requests import EvaluatedEnvironmentBody, Questions
from services.rollout.core.comparison import check_comparable
from services.rollout.core.environment import EnvironmentFault, EpisodeCall, EpisodeReport
from services.rollout.core.evaluation import EvaluationRun, RunState
from services.rollout.core.evaluation_plan import check_questions, plan_episodes
from services.rollout.core.job import JobState
from services.rollout.handlers.engine_requests import EngineRequests
from services.rollout.handlers.episode_scores import EpisodeScores
from services.rollout.handlers.evaluations import EvaluationHandler
from tests.testing.factories import JOB
from tests.unit.rollout.rig import Rig
from tests.unit.rollout.test_environment_waves import (
    COUNTER,
    CountingEnvironment,
    begin,
    by_parity,
    completed,
    rig_of,
)
from tests.unit.rollout.test_evaluation import RUN
from tests.unit.rollout.test_evaluation_work import WaitingRuns
from tests.unit.rollout.test_job_scores import Measured
from tests.unit.rollout.world import ScriptedEngine, published

EVAL = replace(COUNTER, split="eval", min_group=1)
RUN_THERE = replace(RUN, task="", environment=EVAL, n=20, revision=None, policy_id=None)
PLAN = EvaluationPlan(
    every=2,
    rows=5,
    file=None,
    holdout=0.0,
    metric="valid_reward_mean",
    keep="best",
    early_stopping=None,
    split="eval",
    samples=2,
)


class KeptRows(WaitingRuns):
    """Runs whose rows a test reads."""

    rows: Any = ()

    async def finish(self, run: EvaluationRun, rows: Any) -> None:
        self.rows = rows
        await super().finish(run, rows)


async def carried_out(rig: Rig, run: EvaluationRun = RUN_THERE) -> tuple[EvaluationRun, Any]:
    runs = KeptRows([run])
    waves = rig.of_waves.environments
    handler = EvaluationHandler(
        runs=runs,  # type: ignore[arg-type]  # only what the work on runs needs of them
        tasks=rig.tasks,
        sampler=rig.engine,  # type: ignore[arg-type]  # no run here reads a row's loss
        files=None,  # type: ignore[arg-type]  # no run here is of a file
        episodes=EpisodeScores(episodes=waves.episodes, max_faults=waves.max_faults),
        scores=None,  # type: ignore[arg-type]  # nothing is recorded of the bare base
        requests=EngineRequests(rig.clock, in_flight=4),
        clock=rig.clock,
        stall_seconds=20.0,
        error_share=0.5,
    )
    work = asyncio.create_task(handler.run())
    while not runs.ended and not work.done():
        await rig.clock.advance(0.5)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return runs.ended[run.run_id], runs.rows


async def test_each_task_has_one_episode_and_its_reward_is_the_score() -> None:
    environment = CountingEnvironment()
    rig = rig_of(environment)
    run, rows = await carried_out(rig)
    assert (run.state, run.scored, run.episodes) == (RunState.SUCCEEDED, 20, {"ok": 20})
    assert [row.row for row in rows] == [*range(1, 21)]
    assert run.value == pytest.approx(sum(row.score for row in rows) / 20)
    assert 0 < run.value < 1
    assert run.stderr == pytest.approx((run.value * (1 - run.value) / 19) ** 0.5)
    assert all(row.score == float(row.answer.splitlines()[-1] == "1") for row in rows)
    assert {request.temperature for request in rig.engine.requests} == {0.0}
    assert {request.revision for request in rig.engine.requests} == {None}
    again, same = await carried_out(rig_of(CountingEnvironment()))
    assert (again.value, same) == (run.value, rows)


@pytest.mark.parametrize("by_group", [False, True])
async def test_a_tasks_score_is_the_mean_of_its_episodes_and_the_error_is_over_tasks(by_group: bool) -> None:
    environment = CountingEnvironment(by_group=by_group)
    run, rows = await carried_out(rig_of(environment), replace(RUN_THERE, samples=3))
    assert (run.state, run.scored, run.episodes) == (RunState.SUCCEEDED, 20, {"ok": 60})
    assert len(environment.ran) == 60
    assert len(environment.firsts) == (20 if by_group else 60), "those of a group are run in one call"
    scores = [row.score for row in rows]
    assert {round(3 * score) for score in scores} == {0, 1, 2, 3}
    assert run.value == pytest.approx(sum(scores) / 20)
    spread = sum((score - run.value) ** 2 for score in scores)
    assert run.stderr == pytest.approx((spread / 19 / 20) ** 0.5)
    _, singles = await carried_out(rig_of(CountingEnvironment()))
    assert [row.answer for row in rows] == [row.answer for row in singles], "the first episode is the same"


async def test_a_task_is_scored_by_those_of_its_episodes_that_have_a_reward() -> None:
    def judge(call: EpisodeCall, text: str) -> EpisodeReport:
        at = list(environment.ran).index(call.episode_id)
        return EpisodeReport(reward=None, error="no") if at == 1 else EpisodeReport(reward=1.0)

    environment = CountingEnvironment(judge, by_group=True)
    run, rows = await carried_out(rig_of(environment), replace(RUN_THERE, samples=3))
    assert run.episodes == {"ok": 59, "env_error": 1}
    assert run.scored == 20
    assert {row.score for row in rows} == {1.0}, "an error is no reward of 0"


async def test_failures_are_counted_apart_and_are_no_scores() -> None:
    def judge(call: EpisodeCall, text: str) -> EpisodeReport:
        at = list(environment.ran).index(call.episode_id)
        if at == 1:
            raise EnvironmentFault("the worker was killed", whose="infrastructure")
        if at == 2:
            return EpisodeReport(reward=None, error="division by zero")
        if at == 3:
            return replace(by_parity(call, text), is_truncated=True)
        return EpisodeReport(reward=1.0)

    environment = CountingEnvironment(judge)
    run, rows = await carried_out(rig_of(environment))
    assert run.episodes == {"ok": 17, "truncated": 1, "infra_error": 1, "env_error": 1}
    assert (run.state, run.scored, run.grader_errors) == (RunState.SUCCEEDED, 18, {})
    lost = {row.fault: row.message for row in rows if row.score is None}
    assert lost == {"infra_error": "the worker was killed", "env_error": "division by zero"}
    assert Counter(environment.ran.values())[3] == 1  # the worker's fault was tried again
    assert run.value is not None
    assert run.value >= 17 / 18


async def test_too_many_failures_fail_the_run_with_an_example() -> None:
    environment = CountingEnvironment(lambda *_: EpisodeReport(reward=None, error="division by zero"))
    run, _ = await carried_out(rig_of(environment))
    assert (run.state, run.value) == (RunState.FAILED, None)
    assert "of 20 episodes ended without a reward, such as: division by zero" in run.reason


def test_equal_settings_have_one_suite_and_others_another() -> None:
    def suite(**changes: Any) -> str:
        body = replace(
            EvaluatedEnvironmentBody(kind="verifiers", id="sums", args={"a": 1, "b": 2}), **changes
        )
        return str(plan_episodes(Questions(env=body), body, max_context=64)["suite"])

    assert suite() == suite(args={"b": 2, "a": 1})
    assert suite().startswith("env:verifiers:sums:")
    assert len({suite(), suite(args={}), suite(split="train"), suite(max_turns=2)}) == 4
    assert (
        plan_episodes(Questions(), EvaluatedEnvironmentBody(kind="http", id="x"), max_context=64)["n"] == 64
    )


@pytest.mark.parametrize(
    ("samples", "n", "problem"), [(0, 4, "samples"), (65, 4, "samples"), (17, 1000, "17000 episodes")]
)
def test_episodes_of_a_run_are_bounded(samples: int, n: int, problem: str) -> None:
    body = EvaluatedEnvironmentBody(kind="http", id="x")
    with pytest.raises(InvalidField, match=problem) as refused:
        plan_episodes(Questions(env=body, samples=samples, n=n), body, max_context=64)
    assert refused.value.field == "samples"
    assert plan_episodes(Questions(env=body, samples=16, n=1000), body, max_context=64)["samples"] == 16


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"task": "mode:copy", "env": None, "samples": 2}, "samples"),
        ({"task": "mode:copy"}, "task"),
        ({"file": "file-1"}, "task"),
        ({"env": None}, "task"),
        ({"grader": {"type": "x"}}, "grader"),
    ],
)
def test_questions_are_of_one_kind(asked: dict[str, Any], field: str) -> None:
    env = EvaluatedEnvironmentBody(kind="http", id="x")
    check_questions(Questions(env=env))
    with pytest.raises(InvalidField) as refused:
        check_questions(Questions(**{"env": env, **asked}))
    assert refused.value.field == field


def test_runs_in_other_environments_do_not_compare() -> None:
    check_comparable(RUN_THERE, replace(RUN_THERE, run_id="evr_2"))
    with pytest.raises(InvalidField, match="samples is not that of run"):
        check_comparable(RUN_THERE, replace(RUN_THERE, samples=2))
    with pytest.raises(InvalidField, match="env is not that of run"):
        check_comparable(RUN_THERE, replace(RUN_THERE, environment=replace(EVAL, args={"a": 1})))


async def test_a_job_is_measured_in_a_split_and_ends_with_its_best_revision() -> None:
    environment = CountingEnvironment()
    rig = Measured(environments=environment, engine=ScriptedEngine(answer=lambda _, seed: str(seed % 2)))
    environment.door = rig.of_waves.environments.episodes.door
    wave: Any = await begin(rig, steps=4, environment=replace(COUNTER, evaluation=PLAN))
    for step in range(1, 5):
        await completed(rig, wave)
        fact = replace(published(step), metrics={"trained_tokens": 9.0})
        await rig.of_jobs.on_revision_published(fact)
        await rig.job_scores.check()
        wave = next((each for each in await rig.led_to(fact) if isinstance(each, WaveRequested)), wave)
    runs = [*rig.runs.stored.values()]
    assert [run.revision for run in runs] == [published(step).revision for step in (2, 4)]
    for run in runs:
        assert (run.environment, run.n, run.data, run.suite) == (EVAL, 5, None, f"job:{JOB}")
        assert run.samples == 2
    assert await rig.state_of() == ("running", "")
    for number, value in ((2, 0.75), (4, 0.5)):
        rig.runs.end(number, value)
        await rig.job_scores.check()
    job = await rig.jobs.job(JOB)
    assert (job.state, job.result) == (JobState.SUCCEEDED, published(2).revision)
    found = [each.metrics.get("valid_reward_mean") for each in await rig.jobs.waves_of(JOB)]
    assert found == [None, 0.75, None, 0.5]
