"""The score of an evaluation run, and the requests that it asks for."""

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.authority import Authority, Caller
from mint_common.ids import WaveId
from mint_common.records import Prompt
from mint_common.testing.factories import BASE, POLICY, TENANT
from services.rollout.core.evaluation import EvaluationRun, RunState, plan_answers, scored
from tests.unit.rollout.world import revision_of

RUN = EvaluationRun(
    run_id="evr_1",
    tenant_id=TENANT,
    base=BASE,
    policy_id=POLICY,
    policy="copy",
    revision=revision_of(WaveId("w"), 3),
    task="mode:copy",
    n=4,
    seed=1,
    temperature=0.0,
    max_new_tokens=8,
    caller=Caller(authority=Authority(tenant_id=TENANT, key_id="key_1", scopes=frozenset()), name="ci"),
    created_at=1.0,
)


@given(hits=st.lists(st.booleans(), min_size=2, max_size=200))
def test_the_score_is_the_mean_and_its_standard_error(hits: list[bool]) -> None:
    run = scored(RUN, [float(hit) for hit in hits], now=2.0)
    share = fmean(hits)
    assert (run.state, run.scored, run.finished_at) == (RunState.SUCCEEDED, len(hits), 2.0)
    assert run.value == pytest.approx(share)
    assert run.stderr == pytest.approx((share * (1 - share) / (len(hits) - 1)) ** 0.5)


def test_a_single_reward_has_no_standard_error() -> None:
    assert (scored(RUN, [0.5], now=2.0).value, scored(RUN, [0.5], now=2.0).stderr) == (0.5, None)


def test_answers_are_asked_for_once_a_prompt_with_seeds_of_their_own() -> None:
    prompts = [Prompt(text=f"f {letter}=", reference=letter, entry=letter) for letter in "abcd"]
    requests = plan_answers(RUN, prompts)
    assert requests == plan_answers(RUN, prompts)
    assert [request.prompt for request in requests] == [prompt.text for prompt in prompts]
    assert {(request.n, request.revision) for request in requests} == {(1, RUN.revision)}
    assert len({request.seed for request in requests}) == len({one.request_id for one in requests}) == 4
