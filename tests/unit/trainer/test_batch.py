"""From a rollout record to rows and micro-batches; what is refused on the way."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.adapters_format import BaseFacts
from mint_common.ids import Digest, WaveId
from mint_common.records import Group, Sample, WaveRecord
from services.trainer.core.advantages import group_advantages
from services.trainer.core.batch import (
    Row,
    build_dpo_batch,
    build_grpo_batch,
    build_sft_batch,
)
from services.trainer.core.microbatches import MIN_FILL, plan_microbatches
from services.trainer.core.packing import pack_rows
from services.trainer.core.record_check import check_origin, check_record, validation_batch
from services.trainer.core.refusals import RecordInvalid, WaveForeign
from tests.unit.trainer.managed import MANAGED

FACTS = BaseFacts(
    name="random",
    digest="sha256:" + "0" * 64,
    architecture="Random",
    vocab_size=40,
    max_context=64,
    targets=("q_proj",),
    modules={"model.layers.0.self_attn.q_proj": (8, 8)},
    max_rank=16,
)
MakeRecord = Callable[..., WaveRecord]


def test_groups_without_differing_rewards_are_skipped_but_counted(make_record: MakeRecord) -> None:
    record = make_record(groups=3, samples=4, skipped=1)
    batch = build_grpo_batch(record)
    assert (batch.skipped_groups, len(batch.rows), batch.probe) == (1, 8, ())
    assert batch.total_tokens == sum(len(s.tokens) for g in record.groups for s in g.samples)
    assert batch.reward_mean == pytest.approx(4 / 12)


def test_a_pull_to_the_base_acts_on_the_rows_of_every_group(make_record: MakeRecord) -> None:
    """Of the review's 16 rows, 4 had it, divided by the tokens of all."""
    record = make_record(groups=4, samples=4, skipped=3)
    assert len(MANAGED.named("grpo").build_batch(record).rows) == 4
    batch = MANAGED.named("grpo").build_batch(record, pulls=True)
    assert [row.tokens for row in batch.rows] == [s.tokens for g in record.groups for s in g.samples]
    assert [row.advantage == 0 for row in batch.rows] == [True] * 12 + [False] * 4
    assert sum(row.targets for row in batch.rows) == batch.total_tokens
    assert batch.skipped_groups == 3


def test_a_wave_of_skipped_groups_keeps_one_to_compare(make_record: MakeRecord) -> None:
    batch = build_grpo_batch(make_record(groups=2, samples=3, skipped=2))
    assert (batch.rows, len(batch.probe), batch.skipped_groups) == ((), 3, 2)


def test_advantages_are_those_of_episodes_whatever_their_segments(make_record: MakeRecord) -> None:
    """Rewards of 1 and 0, however many sequences each episode left."""
    record = make_record(groups=1, samples=3)
    first, second, third = record.groups[0].samples
    samples = (
        replace(first, episode=0, reward=1.0),
        replace(second, episode=0, reward=1.0),
        replace(third, episode=1, reward=0.0),
    )
    batch = build_grpo_batch(replace(record, groups=(replace(record.groups[0], samples=samples),)))
    high, low = group_advantages([1.0, 0.0]) or ()
    assert [row.advantage for row in batch.rows] == [high, high, low]
    assert batch.reward_mean == 0.5


def test_an_empty_completion_counts_for_the_mean_reward_only(make_record: MakeRecord) -> None:
    record = make_record(groups=1, samples=4)
    empty = Sample(tokens=(), logprobs=(), reward=5.0, text="")
    group = record.groups[0]
    record = replace(record, groups=(replace(group, samples=(*group.samples, empty)),))
    batch = build_grpo_batch(record)
    assert len(batch.rows) == 4
    assert batch.reward_mean == pytest.approx(7 / 5)


def test_sft_imitates_every_sample(make_record: MakeRecord) -> None:
    record = make_record(groups=3, samples=1)
    batch = build_sft_batch(record)
    assert [row.tokens for row in batch.rows] == [g.samples[0].tokens for g in record.groups]
    assert batch.skipped_groups == 0


def test_a_pair_is_the_best_and_the_worst_of_a_group() -> None:
    rewards = (0.5, 1.0, 0.0, 1.0, 0.0)
    samples = tuple(sample(tokens=(n,), logprobs=(-1.0,), reward=r) for n, r in enumerate(rewards))
    tied = (sample(reward=1.0), sample(reward=1.0))
    groups = (Group(prompt_tokens=(9,), samples=tied), Group(prompt_tokens=(7,), samples=samples))
    batch = build_dpo_batch(WaveRecord(wave_id=WaveId("wave_1"), revision=None, groups=groups))
    assert [(row.prompt, row.tokens, row.advantage, row.pair) for row in batch.rows] == [
        ((7,), (1,), 1.0, 0),
        ((7,), (2,), -1.0, 0),
    ]
    assert (batch.skipped_groups, batch.probe, batch.total_tokens) == (1, (), 9)


def test_a_wave_of_ties_has_no_pairs_and_keeps_a_group_to_compare(make_record: MakeRecord) -> None:
    batch = build_dpo_batch(make_record(groups=2, samples=3, skipped=2))
    assert (batch.rows, len(batch.probe), batch.skipped_groups) == ((), 3, 2)


def test_an_empty_completion_is_no_half_of_a_pair() -> None:
    samples = (sample(tokens=(), logprobs=(), reward=5.0), sample(reward=1.0), sample(reward=1.0))
    group = Group(prompt_tokens=(1,), samples=samples)
    batch = build_dpo_batch(WaveRecord(wave_id=WaveId("wave_1"), revision=None, groups=(group,)))
    assert (batch.rows, batch.skipped_groups) == ((), 1)


shapes = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 10), st.integers(0, 3)), max_size=40)


def rows_of(shape: list[tuple[int, int, int]], *, policy: int) -> list[Row]:
    """Rows of few prompts: the first number is the prompt, the second the answer's length."""
    return [
        Row(prompt=(prompt,) * (2 * prompt + 1), tokens=(index,) * t, logprobs=(), advantage=1.0)
        for index, (prompt, t, owner) in enumerate(shape)
        if owner == policy
    ]


@given(shapes, st.integers(0, 40))
def test_lines_hold_every_row_once_behind_its_prompt(
    shape: list[tuple[int, int, int]], max_length: int
) -> None:
    rows = rows_of(shape, policy=0)
    lines = pack_rows(rows, policy=0, max_length=max_length)
    assert sorted(row.tokens for line in lines for row in line.rows) == sorted(row.tokens for row in rows)
    for line in lines:
        assert {row.prompt for row in line.rows} == {line.prompt}
        assert len(line.rows) == 1 or line.length <= max_length
        assert line.length == len(line.prompt) + sum(len(row.tokens) - 1 for row in line.rows)


@given(shapes, st.integers(1, 100), st.integers(1, 40))
def test_microbatches_hold_every_line_once_within_the_limits(
    shape: list[tuple[int, int, int]], max_tokens: int, max_targets: int
) -> None:
    lines = [
        line
        for policy in range(4)
        for line in pack_rows(rows_of(shape, policy=policy), policy=policy, max_length=20)
    ]
    plan = plan_microbatches(lines, max_tokens=max_tokens, max_targets=max_targets)
    assert sorted(map(repr, lines)) == sorted(repr(line) for part in plan for line in part)
    for part in plan:
        longest = max(line.length for line in part)
        assert [line.policy for line in part] == sorted(line.policy for line in part)
        assert all(line.length >= MIN_FILL * longest for line in part)
        assert len(part) == 1 or (
            len(part) * longest <= max_tokens and sum(line.targets for line in part) <= max_targets
        )


def check(record: WaveRecord, *, revision: Digest | None = None, needs_logprobs: bool = True) -> None:
    check_origin(record, wave_id=WaveId("wave_1"), revision=revision)
    check_record(record, FACTS, needs_logprobs=needs_logprobs)


def test_a_sound_record_is_accepted(make_record: MakeRecord) -> None:
    check(make_record())


def test_a_record_of_another_wave_is_foreign(make_record: MakeRecord) -> None:
    with pytest.raises(WaveForeign, match="wave_2"):
        check(replace(make_record(), wave_id=WaveId("wave_2")))


def test_a_record_of_another_revision_is_foreign(make_record: MakeRecord) -> None:
    with pytest.raises(WaveForeign, match="sampled at"):
        check(make_record(), revision=Digest("sha256:" + "1" * 64))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_record_without_a_temperature_that_can_be_divided_by_is_refused(
    make_record: MakeRecord, temperature: float
) -> None:
    with pytest.raises(RecordInvalid, match="logprobs_temperature"):
        check(replace(make_record(groups=1, samples=1), logprobs_temperature=temperature))


def test_rows_are_scored_at_the_temperature_of_their_record(make_record: MakeRecord) -> None:
    record = replace(make_record(groups=2, samples=3), logprobs_temperature=0.7)
    rows = [*build_grpo_batch(record).rows, *build_grpo_batch(make_record(groups=1, samples=3)).rows]
    lines = pack_rows(rows, policy=0, max_length=64)
    assert [line.read().temperature for line in lines] == [0.7, 0.7, 1.0]


def sample(**changes: object) -> Sample:
    sound = Sample(tokens=(1, 2), logprobs=(-1.0, -2.0), reward=1.0, text="")
    return replace(sound, **changes)  # type: ignore[arg-type]  # the fields that a case names


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        (sample(tokens=(1, 40)), r"groups\[0\].samples\[1\].tokens"),
        (sample(tokens=(-1, 2)), r"groups\[0\].samples\[1\].tokens"),
        (sample(logprobs=(-1.0,)), r"samples\[1\].logprobs"),
        (sample(logprobs=(-1.0, float("nan"))), r"samples\[1\].logprobs"),
        (sample(logprobs=(-1.0, float("-inf"))), r"samples\[1\].logprobs"),
        (sample(reward=float("inf")), r"samples\[1\].reward"),
        (sample(trained=((0, 3),)), r"samples\[1\].trained: \[0, 3\) is not within \[0, 2\)"),
        (sample(trained=((-1, 1),)), r"samples\[1\].trained"),
        (sample(trained=((1, 1),)), r"samples\[1\].trained"),
        (sample(trained=((1, 2), (0, 1))), r"samples\[1\].trained"),
        (sample(trained=((0, 2), (1, 2))), r"samples\[1\].trained"),
        (sample(tokens=(1,) * 62, logprobs=(-1.0,) * 62), "65 tokens, the base reads 64"),
    ],
)
def test_a_bad_sample_is_named(bad: Sample, where: str) -> None:
    group = Group(prompt_tokens=(1, 2, 3), samples=(sample(), bad))
    with pytest.raises(RecordInvalid, match=where):
        check(WaveRecord(wave_id=WaveId("wave_1"), revision=None, groups=(group,)))


@pytest.mark.parametrize(
    "groups",
    [
        (),
        (Group(prompt_tokens=(), samples=(sample(),)),),
        (Group(prompt_tokens=(1,), samples=()),),
        (Group(prompt_tokens=(99,), samples=(sample(),)),),
    ],
)
def test_a_group_without_substance_is_refused(groups: tuple[Group, ...]) -> None:
    with pytest.raises(RecordInvalid):
        check(WaveRecord(wave_id=WaveId("wave_1"), revision=None, groups=groups))


@pytest.mark.parametrize("trained", [(), ((0, 2),), ((0, 1), (1, 2)), ((1, 2),)])
def test_ranges_of_trained_tokens_may_touch(trained: tuple[tuple[int, int], ...]) -> None:
    group = Group(prompt_tokens=(1,), samples=(sample(trained=trained),))
    check(WaveRecord(wave_id=WaveId("wave_1"), revision=None, groups=(group,)))


@given(st.lists(st.booleans(), min_size=1, max_size=12).filter(any), st.integers(1, 4))
def test_a_line_is_scored_where_its_rows_are_trained(mask: list[bool], prompt: int) -> None:
    ends = [n for n in range(len(mask) + 1) if mask[n - 1 : n] != mask[n : n + 1] or n == 0]
    ranges = tuple((a, b) for a, b in pairwise([*ends, len(mask)]) if a < b and mask[a])
    row = Row(
        prompt=(7,) * prompt,
        tokens=tuple(range(len(mask))),
        logprobs=tuple(map(float, range(len(mask)))),
        advantage=1.0,
        trained=ranges,
    )
    (line,) = pack_rows([row], policy=0, max_length=64)
    read, (inputs,) = line.read(), line.sequences()
    trained = [n for n, is_trained in enumerate(mask) if is_trained]
    assert read.targets is not None
    assert (line.targets, inputs.targets) == (len(trained), len(trained))
    assert read.targets.tolist() == inputs.arrays["logprobs"].tolist() == trained
    assert read.where_T.tolist() == [prompt - 1 + n for n in trained]


def test_a_record_of_pairs_has_all_log_probabilities_or_none() -> None:
    dpo = MANAGED.named("dpo")
    some, none = sample(), sample(logprobs=())
    for samples, needs in (((some, none), True), ((none, none), False)):
        group = Group(prompt_tokens=(1,), samples=samples)
        record = WaveRecord(wave_id=WaveId("wave_1"), revision=None, groups=(group,))
        assert dpo.needs_logprobs(record) is needs
        assert MANAGED.named("grpo").needs_logprobs(record)
        assert not MANAGED.named("sft").needs_logprobs(record)


def test_only_what_a_loss_can_be_measured_on_is_validated_on(make_record: MakeRecord) -> None:
    record = make_record(groups=2, samples=2)
    assert len(validation_batch(MANAGED.named("kto"), record, FACTS).rows) == 4
    with pytest.raises(RecordInvalid, match="grpo is not validated by its loss"):
        validation_batch(MANAGED.named("grpo"), record, FACTS)
    with pytest.raises(RecordInvalid, match="there is nothing to measure"):
        validation_batch(MANAGED.named("dpo"), make_record(groups=2, samples=2, skipped=2), FACTS)


def test_references_need_no_logprobs() -> None:
    group = Group(prompt_tokens=(1,), samples=(sample(logprobs=()),))
    check(WaveRecord(wave_id=WaveId("wave_1"), revision=None, groups=(group,)), needs_logprobs=False)
