"""Training data of one optimizer step, built from a rollout record."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mint_common.events.policy_gradient import AdvantageRule, AdvantageSource, Overlong, PolicyGradient
from mint_common.records import (
    Group,
    Sample,
    WaveRecord,
    episode_of,
    episode_rewards,
    reward_mean,
    trained_count,
    trained_ranges,
)
from services.trainer.core.advantages import group_advantages, overlong_punishment

T = TypeVar("T")

SamplePlace = tuple[int, int]
"""The index of a sample's group in its record, and its own there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardedEpisode:
    """An episode of a policy gradient: numbered within its group, its reward, and its trained tokens."""

    group: int
    number: int
    reward: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedGroup:
    """Counts of a policy gradient's group: its trained episodes, and the trained tokens of these."""

    number: int
    episodes: int
    tokens: int
    is_skipped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence: the loss is computed on ``tokens``, which continue ``prompt``.

    With ``trained``, [start, end) ranges of ``tokens``, only on those. ``logprobs`` are the sampler's, one
    per token (none for tokens not sampled); ``advantage`` weighs every token of the row. Wanted answers of a
    comparison have advantage 1, the others -1, and ``pair`` numbers each kind within the batch: two rows of
    one number are a pair. ``weight`` is that of a row's tokens, None: 1.
    The experts are the sampler's routes, as in a `Group` and its `Sample`. The policy's log-probabilities are
    computed at ``temperature``, as the sampler's were. ``teacher`` are a teacher's log-probabilities, one per
    token. ``place`` is a sampled row's in its record.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    advantage: float
    trained: tuple[tuple[int, int], ...] = ()
    pair: int = 0
    weight: float | None = None
    prompt_experts: bytes = b""
    experts: bytes = b""
    temperature: float = 1.0
    episode: RewardedEpisode | None = None
    teacher: tuple[float, ...] = ()
    place: SamplePlace | None = None

    @property
    def length(self) -> int:
        """Return the number of tokens that the model reads: the last one is only predicted."""
        return len(self.prompt) + len(self.tokens) - 1

    @property
    def targets(self) -> int:
        """Return the number of tokens that the loss falls on."""
        return trained_count(self.tokens, self.trained)

    def picked(self, values: Sequence[T]) -> Sequence[T]:
        """Return those of a value for each token whose tokens the loss falls on."""
        if not self.trained:
            return values
        return [value for start, end in self.trained for value in values[start:end]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The rows of one step.

    ``total_tokens`` counts the trained tokens of every row of the wave, including skipped ones: the
    loss is their mean, so that a wave with little signal has little weight. ``probe`` compares a step
    without ``rows`` with the sampler. ``mismatched`` are prompts with other rows'
    answers, which KTO compares too. ``episodes`` counts those of a policy gradient's wave, skipped ones too,
    each with ``max_new_tokens`` at most; ``groups`` has the counts of each of its groups.
    """

    rows: tuple[Row, ...]
    probe: tuple[Row, ...]
    total_tokens: int
    skipped_groups: int
    reward_mean: float
    mismatched: tuple[Row, ...] = ()
    episodes: int = 0
    max_new_tokens: int = 1
    groups: tuple[TrainedGroup, ...] = ()


def build_grpo_batch(
    record: WaveRecord,
    gradient: PolicyGradient = PolicyGradient(),  # noqa: B008  # frozen
    *,
    max_new_tokens: int = 1,
    pulls: bool = False,
) -> Batch:
    """Return the rows of the groups whose rewards differ, with their advantages.

    Where advantages come from a teacher, those of every group. Where a KL term ``pulls`` to the base, those
    of the other groups too, with advantage 0: it acts on all tokens that it is divided by. Answers that were
    cut off count in their group's rewards; if they are masked they have no rows, and are not counted.
    """
    rows: list[Row] = []
    groups: list[TrainedGroup] = []
    for number, group in enumerate(record.groups):
        episodes = _episodes(group, number, gradient.overlong, max_new_tokens=max_new_tokens)
        advantages = _advantages([one.reward for one in episodes], gradient.advantage)
        weighed = dict(zip(episodes, advantages or [0.0] * len(episodes), strict=True))
        if gradient.overlong.mask:
            weighed = {
                one: weight for one, weight in weighed.items() if not _is_cut(group, one, max_new_tokens)
            }
        trained = [one for one in weighed if one.tokens]
        groups.append(
            TrainedGroup(
                number=number,
                episodes=len(trained),
                tokens=sum(one.tokens for one in trained),
                is_skipped=advantages is None,
            )
        )
        if advantages is not None or pulls:
            by_sequence = gradient.aggregation == "sequence_mean"
            rows += _episode_rows(group, weighed, record.logprobs_temperature, by_sequence=by_sequence)
    batch = _batch(record, rows, probe=() if rows else _probe(record), skipped_groups=0)
    return with_groups(replace(batch, max_new_tokens=max_new_tokens), groups)


def _advantages(rewards: Sequence[float], source: AdvantageSource) -> tuple[float, ...] | None:
    """Return the advantages of a group, 0 where those of its tokens come from a teacher."""
    return (0.0,) * len(rewards) if source == "teacher" else group_advantages(rewards, source)


def with_groups(batch: Batch, groups: Sequence[TrainedGroup]) -> Batch:
    """Return a policy gradient's batch with the counts of some groups."""
    return replace(
        batch,
        groups=tuple(groups),
        total_tokens=sum(one.tokens for one in groups),
        episodes=sum(one.episodes for one in groups),
        skipped_groups=sum(one.is_skipped for one in groups),
    )


def rewarded_rows(
    moved: Iterable[tuple[Row, float]], *, coefficient: float, rule: AdvantageRule
) -> list[Row]:
    """Return rows of a policy gradient whose advantages are those of rewards less a KL to the base.

    ``moved`` are rows with their sums of (policy's - base's) log-probability, k1 of Schulman's estimators
    (joschu.net/blog/kl-approx.html), which an episode's segments add up: r_i - coefficient sum_t k1_t, as in
    Ouyang et al. 2022 (arXiv 2203.02155), eq. 2.
    """
    found = list(moved)
    rewards: dict[int, dict[int, float]] = {}
    for row, kl in found:
        assert row.episode is not None, "a row of a policy gradient"
        of_group = rewards.setdefault(row.episode.group, {})
        before = of_group.get(row.episode.number, row.episode.reward)
        of_group[row.episode.number] = before - coefficient * kl
    advantages = {
        group: dict(zip(own, group_advantages(list(own.values()), rule) or [0.0] * len(own), strict=True))
        for group, own in rewards.items()
    }
    return [
        replace(row, advantage=advantages[row.episode.group][row.episode.number])
        for row, _ in found
        if row.episode is not None
    ]


def _episodes(group: Group, number: int, overlong: Overlong, *, max_new_tokens: int) -> list[RewardedEpisode]:
    lengths: Counter[int] = Counter()
    for index, sample in enumerate(group.samples):
        lengths[episode_of(index, sample)] += trained_count(sample.tokens, sample.trained)
    return [
        RewardedEpisode(
            group=number,
            number=one,
            reward=reward + overlong_punishment(lengths[one], overlong, max_new_tokens=max_new_tokens),
            tokens=lengths[one],
        )
        for one, reward in episode_rewards(group).items()
    ]


def _is_cut(group: Group, episode: RewardedEpisode, max_new_tokens: int) -> bool:
    """Return whether an episode ended at a limit; a single answer did if it has as many tokens as it may."""
    if group.episodes:
        return group.episodes[episode.number].outcome == "truncated"
    return episode.tokens >= max_new_tokens


def _episode_rows(
    group: Group, weighed: Mapping[RewardedEpisode, float], temperature: float, *, by_sequence: bool
) -> Iterator[Row]:
    """Yield the rows of some episodes with their advantages; ``by_sequence``: each episode weighs as much."""
    numbered = {one.number: one for one in weighed}
    for index, sample in enumerate(group.samples):
        episode = numbered.get(episode_of(index, sample))
        if episode is not None and sample.tokens:
            place = (episode.group, index)
            yield replace(
                _sampled_row(group, sample, place, advantage=weighed[episode], temperature=temperature),
                episode=episode,
                weight=1 / episode.tokens if by_sequence else None,
            )


def build_sft_batch(record: WaveRecord) -> Batch:
    """Return every sample as a row to imitate; its log-probabilities are not read."""
    rows = [_row(*answer, advantage=1.0) for answer in _answers(record)]
    return _batch(record, rows, probe=(), skipped_groups=0)


def build_dpo_batch(record: WaveRecord) -> Batch:
    """Return the best and the worst sample of each group as a pair; a group of equal rewards has none.

    The first of equal samples is used. Routes are dropped: policy and base are compared with
    each other, not with the sampler.
    """
    rows: list[Row] = []
    for place, group in enumerate(record.groups):
        samples = [(index, sample) for index, sample in enumerate(group.samples) if sample.tokens]
        best = max(samples, key=lambda one: one[1].reward, default=None)
        worst = min(samples, key=lambda one: one[1].reward, default=None)
        if best is None or worst is None or best[1].reward == worst[1].reward:
            continue
        number = len(rows) // 2
        rows += [
            replace(
                _row(group, sample, advantage=advantage),
                logprobs=sample.logprobs,
                pair=number,
                temperature=record.logprobs_temperature,
                place=(place, index) if sample.logprobs else None,
            )
            for (index, sample), advantage in ((best, 1.0), (worst, -1.0))
        ]
    skipped = len(record.groups) - len(rows) // 2
    return _batch(record, rows, probe=() if rows else _probe(record), skipped_groups=skipped)


def build_kto_batch(record: WaveRecord) -> Batch:
    """Return every sample as a row: wanted where its reward is above 0, else unwanted.

    A mismatched row is a row's prompt with the answer of the row before it, as in TRL's KTOTrainer, cut where
    the longest row of the batch ends; a single row has none.
    """
    rows: list[Row] = []
    counts = {1.0: 0, -1.0: 0}
    for group, sample in _answers(record):
        advantage = 1.0 if sample.reward > 0 else -1.0
        rows.append(replace(_row(group, sample, advantage=advantage), pair=counts[advantage]))
        counts[advantage] += 1
    batch = _batch(record, rows, probe=(), skipped_groups=0)
    return replace(batch, mismatched=tuple(_mismatched(rows)))


def _mismatched(rows: Sequence[Row]) -> Iterator[Row]:
    longest = max((row.length for row in rows), default=0)
    for row, other in zip([*rows[1:], *rows[:1]], rows, strict=True):
        room = longest + 1 - len(row.prompt)
        ranges = trained_ranges(other.tokens, other.trained)
        trained = tuple((start, min(end, room)) for start, end in ranges if start < room)
        if row is not other and trained:
            tokens = other.tokens[:room]
            yield Row(prompt=row.prompt, tokens=tokens, logprobs=(), advantage=0.0, trained=trained)


def _answers(record: WaveRecord) -> list[tuple[Group, Sample]]:
    """Return the samples that have a token, each with its group."""
    return [(group, sample) for group in record.groups for sample in group.samples if sample.tokens]


def _row(group: Group, sample: Sample, *, advantage: float) -> Row:
    """Return a row without its sampler's data."""
    return Row(
        prompt=group.prompt_tokens,
        tokens=sample.tokens,
        logprobs=(),
        advantage=advantage,
        trained=sample.trained,
    )


def _probe(record: WaveRecord) -> tuple[Row, ...]:
    group = record.groups[0]
    temperature = record.logprobs_temperature
    return tuple(
        _sampled_row(group, one, (0, index), advantage=0.0, temperature=temperature)
        for index, one in enumerate(group.samples)
        if one.tokens
    )


def _sampled_row(
    group: Group, sample: Sample, place: SamplePlace, *, advantage: float, temperature: float
) -> Row:
    return replace(
        _row(group, sample, advantage=advantage),
        logprobs=sample.logprobs,
        prompt_experts=group.prompt_experts,
        experts=sample.experts,
        temperature=temperature,
        teacher=sample.teacher,
        place=place,
    )


def _batch(record: WaveRecord, rows: list[Row], *, probe: tuple[Row, ...], skipped_groups: int) -> Batch:
    samples: list[Sample] = [sample for group in record.groups for sample in group.samples]
    return Batch(
        rows=tuple(rows),
        probe=probe,
        total_tokens=sum(trained_count(sample.tokens, sample.trained) for sample in samples),
        skipped_groups=skipped_groups,
        reward_mean=reward_mean(record),
    )
