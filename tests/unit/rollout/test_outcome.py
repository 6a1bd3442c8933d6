"""How a job that took all its steps ends, over every history of rewards."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mint_common.events import JobSpec
from services.rollout.core.outcome import MANY_IDLE, has_collapsed, judge
from tests.testing.factories import SPEC
from tests.unit.rollout.world import GROUPS, history


def spec_of(steps: int, **changes: object) -> JobSpec:
    return replace(SPEC, **{"steps": steps, "prompts_per_step": GROUPS, "group_size": 4, **changes})


rewards_lists = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@given(rewards=rewards_lists, data=st.data())
def test_a_job_fails_exactly_when_no_step_had_a_signal(rewards: list[float], data: st.DataObject) -> None:
    steps = range(1, len(rewards) + 1)
    idle = data.draw(st.sets(st.sampled_from(steps)))
    verdict = judge(spec_of(len(rewards)), history(rewards, idle=list(idle)))
    assert (verdict.outcome == "failed") == (len(idle) == len(rewards))
    assert ("no signal" in verdict.reason) == (0 < len(idle) >= MANY_IDLE * len(rewards))


@given(rewards=rewards_lists)
def test_a_reward_that_never_falls_has_not_collapsed(rewards: list[float]) -> None:
    assert judge(spec_of(len(rewards)), history(sorted(rewards))).reason == ""


@given(before=st.integers(10, 20), after=st.integers(10, 20))
def test_a_reward_that_goes_from_all_to_nothing_has_collapsed(before: int, after: int) -> None:
    rewards = [1.0] * before + [0.0] * after
    verdict = judge(spec_of(len(rewards), learning_rate=0.5), history(rewards))
    assert verdict.outcome == "succeeded"
    assert verdict.reason.startswith(
        "the reward collapsed: 1 at its best, 0 at the end, at a learning rate of 0.5"
    )
    assert "the best revision is" in verdict.reason


@given(rewards=rewards_lists, window=st.integers(1, 10), prompts=st.integers(1, 64))
def test_a_collapse_loses_half_of_the_best(rewards: list[float], window: int, prompts: int) -> None:
    if has_collapsed(rewards, window=window, prompts=prompts):
        assert sum(rewards[-window:]) <= 0.5 * max(rewards) * window + 1e-9


@given(rewards=st.lists(st.floats(0.4, 0.6), min_size=4, max_size=40))
def test_noise_is_no_collapse(rewards: list[float]) -> None:
    assert judge(spec_of(len(rewards)), history(rewards)).reason == ""


def test_nothing_trained_says_so_with_the_reward() -> None:
    verdict = judge(spec_of(3), history([0.0, 0.0, 0.0], idle=[1, 2, 3]))
    assert verdict.outcome == "failed"
    assert verdict.reason == (
        "nothing was trained: 3 of 3 steps had no signal: all answers to each prompt had the same reward"
        " (mean 0)"
    )


def test_sft_imitates_references_and_is_judged_by_no_reward() -> None:
    spec = spec_of(4, algorithm="sft", group_size=1)
    assert judge(spec, history([1.0, 1.0, 0.0, 0.0])) == judge(spec, history([1.0] * 4))
