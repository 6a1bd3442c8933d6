"""Training data of one optimizer step, built from a rollout record."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

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

STD_EPSILON = 1e-4
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence: the loss is computed on ``tokens``, which continue ``prompt``.

    With ``trained``, [start, end) ranges of ``tokens``, only on those. ``logprobs`` are the sampler's, one
    per token (none for tokens not sampled); ``advantage`` weighs every token of the row. Wanted answers of a
    comparison have advantage 1, the others -1, and ``pair`` numbers each kind within the batch: two rows of
    one number are a pair. ``weight`` is that of a row's tokens in a cross entropy, once they are compared.
    The experts are the sampler's routes, as in a `Group` and its `Sample`. The policy's log-probabilities are
    computed at ``temperature``, as the sampler's were.
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
    answers, which KTO compares too.
    """

    rows: tuple[Row, ...]
    probe: tuple[Row, ...]
    total_tokens: int
    skipped_groups: int
    reward_mean: float
    mismatched: tuple[Row, ...] = ()


def build_grpo_batch(record: WaveRecord, *, pulls: bool = False) -> Batch:
    """Return the rows of the groups whose rewards differ, with their advantages.

    Where a KL term ``pulls`` to the base, those of the other groups too, with advantage 0: it acts on all
    tokens that it is divided by.
    """
    rows: list[Row] = []
    skipped = 0
    for group in record.groups:
        rewards = episode_rewards(group)
        advantages = group_advantages(list(rewards.values()))
        skipped += advantages is None
        if advantages is None and pulls:
            advantages = (0.0,) * len(rewards)
        if advantages is not None:
            of_episode = dict(zip(rewards, advantages, strict=True))
            of_samples = [of_episode[episode_of(*numbered)] for numbered in enumerate(group.samples)]
            rows += _rows(group, of_samples, record.logprobs_temperature)
    return _batch(record, rows, probe=() if rows else _probe(record), skipped_groups=skipped)


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
    for group in record.groups:
        samples = [sample for sample in group.samples if sample.tokens]
        best = max(samples, key=lambda sample: sample.reward, default=None)
        worst = min(samples, key=lambda sample: sample.reward, default=None)
        if best is None or worst is None or best.reward == worst.reward:
            continue
        number = len(rows) // 2
        rows += [
            replace(
                _row(group, sample, advantage=advantage),
                logprobs=sample.logprobs,
                pair=number,
                temperature=record.logprobs_temperature,
            )
            for sample, advantage in ((best, 1.0), (worst, -1.0))
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


def group_advantages(rewards: Sequence[float]) -> tuple[float, ...] | None:
    """Return the advantages of one group, or None when every reward is the same and nothing can be learnt.

    GRPO, Shao et al. 2024 (arXiv 2402.03300), section 4.1.2: A_i = (r_i - mean(r)) / (std(r) + eps), where
    ``std`` is the sample standard deviation (n - 1), as in TRL.
    """
    if len(rewards) < 2 or min(rewards) == max(rewards):
        return None
    mean = statistics.fmean(rewards)
    scale = statistics.stdev(rewards) + STD_EPSILON
    return tuple((reward - mean) / scale for reward in rewards)


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
    return tuple(_rows(group, [0.0] * len(group.samples), record.logprobs_temperature))


def _rows(group: Group, advantages: Sequence[float], temperature: float) -> list[Row]:
    return [
        replace(
            _row(group, sample, advantage=advantage),
            logprobs=sample.logprobs,
            prompt_experts=group.prompt_experts,
            experts=sample.experts,
            temperature=temperature,
        )
        for sample, advantage in zip(group.samples, advantages, strict=True)
        if sample.tokens
    ]


def _batch(record: WaveRecord, rows: list[Row], *, probe: tuple[Row, ...], skipped_groups: int) -> Batch:
    samples: list[Sample] = [sample for group in record.groups for sample in group.samples]
    return Batch(
        rows=tuple(rows),
        probe=probe,
        total_tokens=sum(trained_count(sample.tokens, sample.trained) for sample in samples),
        skipped_groups=skipped_groups,
        reward_mean=reward_mean(record),
    )
