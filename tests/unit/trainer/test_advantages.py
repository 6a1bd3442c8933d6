"""Advantages of groups, and what a policy gradient's batch makes of episodes and long answers."""

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.events.policy_gradient import AdvantageRule, Overlong, PolicyGradient
from mint_common.records import Episode, Sample, WaveRecord
from services.trainer.core.advantages import STD_EPSILON, group_advantages, overlong_punishment
from services.trainer.core.batch import build_grpo_batch, rewarded_rows

MakeRecord = Callable[..., WaveRecord]
RULES: tuple[AdvantageRule, ...] = get_args(AdvantageRule)
rewards = st.lists(st.floats(-5.0, 5.0, width=32), min_size=2, max_size=16)


@pytest.mark.parametrize("rule", RULES)
@given(values=rewards)
def test_advantages_have_mean_zero_and_keep_the_order(rule: AdvantageRule, values: list[float]) -> None:
    advantages = group_advantages(values, rule)
    if min(values) == max(values) or (rule == "maxrl" and statistics.fmean(values) <= 0):
        assert advantages is None
        return
    assert advantages is not None
    size = max(map(abs, advantages))
    assert math.fsum(advantages) == pytest.approx(0.0, abs=1e-6 * (1 + size))
    by_reward = [a for _, a in sorted(zip(values, advantages, strict=True))]
    assert by_reward == sorted(by_reward)


@given(rewards)
def test_each_rule_scales_the_distance_from_the_mean(values: list[float]) -> None:
    if min(values) == max(values):
        return
    mean, count = statistics.fmean(values), len(values)
    others = [(math.fsum(values) - value) / (count - 1) for value in values]
    by_rule = {rule: group_advantages(values, rule) or () for rule in RULES}
    assert by_rule["centre"] == pytest.approx([value - mean for value in values])
    scale = statistics.stdev(values)
    assert statistics.stdev(by_rule["std"]) == pytest.approx(scale / (scale + STD_EPSILON), rel=1e-6)
    pairs = zip(values, others, strict=True)
    assert by_rule["rloo"] == pytest.approx([value - other for value, other in pairs], abs=1e-9)
    if mean > 0:
        assert by_rule["maxrl"] == pytest.approx([(value - mean) / mean for value in values])


@given(rewards, st.permutations(range(16)))
def test_advantages_follow_their_samples(values: list[float], order: list[int]) -> None:
    order = [index for index in order if index < len(values)]
    straight, shuffled = group_advantages(values), group_advantages([values[index] for index in order])
    if straight is None:
        assert shuffled is None
    else:
        assert shuffled == pytest.approx([straight[index] for index in order], abs=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("values", [[1.0], [0.1] * 7, []])
def test_a_group_that_teaches_nothing_has_no_advantages(rule: AdvantageRule, values: list[float]) -> None:
    assert group_advantages(values, rule) is None


@pytest.mark.parametrize(("tokens", "punishment"), [(80, 0.0), (81, -0.1), (90, -1.0), (100, -2.0)])
def test_a_reward_falls_over_the_last_tokens_of_an_answer(tokens: int, punishment: float) -> None:
    found = overlong_punishment(tokens, Overlong(buffer=20, factor=2.0), max_new_tokens=100)
    assert found == pytest.approx(punishment)
    assert overlong_punishment(tokens, Overlong(), max_new_tokens=100) == 0.0


def record_of(make_record: MakeRecord, *lengths: int) -> WaveRecord:
    """Return a record of a group with answers of so many tokens, all but the first with reward 1."""
    record = make_record(groups=1, samples=1)
    samples = tuple(
        Sample(tokens=(5,) * length, logprobs=(-1.0,) * length, reward=float(number > 0), text="")
        for number, length in enumerate(lengths)
    )
    return replace(record, groups=(replace(record.groups[0], samples=samples),))


def test_a_long_answer_is_worth_less_and_one_that_was_cut_is_left_out(make_record: MakeRecord) -> None:
    record = record_of(make_record, 2, 8, 4)
    gradient = PolicyGradient(advantage="centre", overlong=Overlong(buffer=4, mask=True))
    batch = build_grpo_batch(record, gradient, max_new_tokens=8)
    assert [row.advantage for row in batch.rows] == pytest.approx([-1 / 3, 2 / 3])
    assert (batch.total_tokens, batch.episodes, batch.reward_mean) == (6, 2, pytest.approx(2 / 3))


def test_an_episode_that_ended_at_a_limit_says_so_itself(make_record: MakeRecord) -> None:
    record = record_of(make_record, 2, 9)
    episodes = (Episode(outcome="truncated", reward=0.0), Episode(outcome="ok", reward=1.0))
    record = replace(record, groups=(replace(record.groups[0], episodes=episodes),))
    gradient = PolicyGradient(overlong=Overlong(mask=True))
    assert [len(row.tokens) for row in build_grpo_batch(record, gradient, max_new_tokens=4).rows] == [9]


def test_a_wave_of_answers_that_were_all_cut_is_compared_only(make_record: MakeRecord) -> None:
    gradient = PolicyGradient(overlong=Overlong(mask=True))
    batch = build_grpo_batch(record_of(make_record, 4, 4), gradient, max_new_tokens=4, pulls=True)
    assert (batch.rows, len(batch.probe), batch.total_tokens, batch.episodes) == ((), 2, 0, 0)


def test_the_segments_of_an_episode_weigh_together_as_much_as_another_episode(
    make_record: MakeRecord,
) -> None:
    record = record_of(make_record, 2, 6, 4)
    first, *others = record.groups[0].samples
    samples = (replace(first, episode=0), *(replace(one, episode=1) for one in others))
    record = replace(record, groups=(replace(record.groups[0], samples=samples),))
    batch = build_grpo_batch(record, PolicyGradient(aggregation="sequence_mean"))
    assert [row.weight for row in batch.rows] == [1 / 2, 1 / 10, 1 / 10]
    assert (batch.episodes, batch.total_tokens) == (2, 12)


def test_a_kl_on_rewards_is_subtracted_from_whole_episodes(make_record: MakeRecord) -> None:
    """Also where rewards were equal, and from both segments of an episode."""
    record = record_of(make_record, 2, 3, 4)
    first, second, third = (replace(one, reward=1.0) for one in record.groups[0].samples)
    samples = (replace(first, episode=0), replace(second, episode=0), replace(third, episode=1))
    record = replace(record, groups=(replace(record.groups[0], samples=samples),))
    rows = build_grpo_batch(record, PolicyGradient(kl="reward"), pulls=True).rows
    moved = zip(rows, (1.0, 3.0, 2.0), strict=True)
    found = rewarded_rows(moved, coefficient=0.1, rule="centre")
    assert [row.advantage for row in found] == pytest.approx([-0.1, -0.1, 0.1])  # rewards 0.6 and 0.8
