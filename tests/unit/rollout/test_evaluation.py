"""The score of an evaluation run, and the requests that it asks for."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.authority import Authority, Caller
from mint_common.ids import WaveId
from services.rollout.core.evaluation import (
    LOSS,
    MAX_ANSWER,
    EvaluationRun,
    RunState,
    ScoredRow,
    ScoredRows,
    kept,
    plan_answer,
    scored,
)
from tests.testing.factories import BASE, POLICY, TENANT
from tests.unit.rollout.world import revision_of

RUN = EvaluationRun(
    run_id="evr_1",
    tenant_id=TENANT,
    base=BASE,
    policy_id=POLICY,
    policy="copy",
    revision=revision_of(WaveId("w"), 3),
    task="mode:copy",
    suite="mode:copy",
    n=4,
    seed=1,
    temperature=0.0,
    max_new_tokens=8,
    caller=Caller(authority=Authority(tenant_id=TENANT, key_id="key_1", scopes=frozenset()), name="ci"),
    created_at=1.0,
)


def row(number: int, score: float | None) -> ScoredRow:
    fault = {} if score is not None else {"fault": "other_error", "message": "division by zero"}
    return ScoredRow(row=number, score=score, answer="a", **fault)


def rows(scores: Sequence[float | None], *, dropped: int = 0) -> ScoredRows:
    found = [row(number, score) for number, score in enumerate(scores, start=1)]
    return ScoredRows(rows=found, dropped=dropped)


@given(hits=st.lists(st.booleans(), min_size=2, max_size=200))
def test_the_score_is_the_mean_and_its_standard_error(hits: list[bool]) -> None:
    run = scored(RUN, rows([float(hit) for hit in hits]), now=2.0)
    share = fmean(hits)
    assert (run.state, run.scored, run.finished_at) == (RunState.SUCCEEDED, len(hits), 2.0)
    assert run.value == pytest.approx(share)
    assert run.stderr == pytest.approx((share * (1 - share) / (len(hits) - 1)) ** 0.5)


def test_a_single_reward_has_no_standard_error() -> None:
    run = scored(RUN, rows([0.5]), now=2.0)
    assert (run.value, run.stderr) == (0.5, None)


def test_answers_that_a_grader_fails_on_are_counted_and_are_no_rewards() -> None:
    run = scored(RUN, rows([1.0] * 18 + [0.0, None, None], dropped=3), error_share=0.1, now=2.0)
    assert (run.state, run.scored, run.value) == (RunState.SUCCEEDED, 19, pytest.approx(18 / 19))
    assert (run.grader_errors, run.dropped) == ({"other_error": 2}, 3)


def test_too_many_grader_errors_fail_the_run_with_one_of_them() -> None:
    run = scored(RUN, rows([1.0] * 17 + [None, None]), error_share=0.1, now=2.0)
    assert (run.state, run.value) == (RunState.FAILED, None)
    assert run.reason == ("the grader failed on 2 of 19 answers; row 18: other_error: division by zero")
    assert run.grader_errors == {"other_error": 2}
    assert scored(RUN, rows([None]), now=2.0).state is RunState.FAILED


def test_a_loss_that_is_not_finite_fails_the_run() -> None:
    found = rows([1.0] * 9 + [None], dropped=1)
    run = scored(replace(RUN, metric=LOSS), found, error_share=0.5, now=2.0)
    assert (run.state, run.value, run.dropped, run.grader_errors) == (RunState.FAILED, None, 1, {})
    assert run.reason == "the loss of 1 of 10 rows is not finite; the first is row 10"


def test_a_run_without_rows_fails() -> None:
    run = scored(RUN, ScoredRows(dropped=4), now=2.0)
    assert (run.state, run.dropped, run.value) == (RunState.FAILED, 4, None)


def test_what_is_kept_of_an_answer_is_bounded_and_storable() -> None:
    assert kept("a\x00b") == "a\ufffdb"
    assert len(kept("a" * 5000)) == MAX_ANSWER


def test_answers_are_asked_for_once_a_prompt_with_seeds_of_their_own() -> None:
    prompts = [f"f {letter}=" for letter in "abcd"]
    requests = [plan_answer(RUN, place, prompt=prompt) for place, prompt in enumerate(prompts)]
    assert requests == [plan_answer(RUN, place, prompt=prompt) for place, prompt in enumerate(prompts)]
    assert [request.prompt for request in requests] == prompts
    assert {(request.n, request.revision) for request in requests} == {(1, RUN.revision)}
    assert len({request.seed for request in requests}) == len({one.request_id for one in requests}) == 4
