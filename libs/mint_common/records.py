"""The blobs of a wave: its prompts or rows, the rollout record, and the trainer's log-probabilities of it.

All are MessagePack through msgspec; every number is a plain int or float, every token an id of the base's
tokenizer.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal, TypeVar

import msgspec

from mint_common.datasets import RowLine
from mint_common.errors import EventInvalid
from mint_common.ids import Digest, JobId, PolicyId, WaveId

T = TypeVar("T")
Ranges = tuple[tuple[int, int], ...]
"""[start, end) of tokens, in order and apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt of a task. ``entry`` is the task's JSON description of the item, for its verifier."""

    text: str
    reference: str
    entry: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One completion: token ids (stop token included), the sampler's log-probability of each, and a reward.

    ``logprobs`` is empty for a reference answer, which was not sampled (SFT). ``experts`` is the route of
    every token but the last, which no model reads: see `Group.prompt_experts`. ``trained`` has the
    [start, end) ranges of ``tokens`` that a loss falls on, in order and apart; empty: all of them. Tokens
    outside them were not sampled here, and their log-probabilities are 0. ``teacher`` has a teacher's
    log-probability of each token, where the job has one. ``episode`` is the index of its
    episode among `Group.episodes`, of which it is one segment; None: the sample is an episode of its own.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    reward: float
    text: str
    experts: bytes = b""
    trained: Ranges = ()
    episode: int | None = None
    teacher: tuple[float, ...] = ()


Outcome = Literal["ok", "truncated", "env_error", "infra_error"]
"""End of an episode: complete, at a limit, by an error of the environment, or by one of MinT's own parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One run of an environment.

    An episode with an error has neither a reward nor samples. ``scores`` are the environment's own numbers by
    name; ``seconds`` are those of its phases, ``model`` and ``environment``; ``turns`` counts its model
    calls. ``stop`` is the environment's reason for its end, ``error`` that of a failure. ``left_out`` counts
    its segments without a sample: they begin with another token than most segments of their group.
    """

    outcome: Outcome
    reward: float | None
    scores: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    turns: int = 1
    stop: str = ""
    error: str = ""
    left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The samples of one prompt; advantages are normalised within it.

    ``prompt_tokens`` are the first tokens of every sample. ``episodes`` are those of an environment, whose
    segments the samples are; empty: each sample is an episode.

    ``prompt_experts`` is the sampler's route of every prompt token through a base with routed experts:
    little-endian uint16 ``[tokens, routed layers, experts per token]``. Empty: not recorded.
    ``sampler_dtype`` is the sampler's compute dtype. Empty: nothing was sampled, or it was not recorded.
    """

    prompt_tokens: tuple[int, ...]
    samples: tuple[Sample, ...]
    prompt_experts: bytes = b""
    sampler_dtype: str = ""
    episodes: tuple[Episode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacedGroup:
    """A group that another one took the place of: all of its ``episodes`` had the same reward."""

    reward: float
    episodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveRecord:
    """All groups of a wave. ``revision`` is the digest that answered; None is the bare base.

    The samples' log-probabilities are those of softmax(logits / ``logprobs_temperature``): 1.0 is the model's
    own, another value that of processed log-probabilities. ``replaced`` are groups that dynamic sampling left
    out.
    """

    wave_id: WaveId
    revision: Digest | None
    groups: tuple[Group, ...]
    logprobs_temperature: float = 1.0
    replaced: tuple[ReplacedGroup, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveLogprobs:
    """The trainer's log-probabilities of a wave's tokens.

    ``groups[i][j]`` are those of sample j of the record's group i: little-endian float32, one for every token
    of the sample's trained ranges, at the record's temperature; empty: the sample was not compared.
    """

    wave_id: WaveId
    groups: tuple[tuple[bytes, ...], ...]


def wave_blobs(policy_id: PolicyId, job_id: JobId) -> str:
    """Return the prefix of the keys of a job's blobs; no other job's key begins with it."""
    return f"waves/{policy_id}/{job_id}/"


def wave_blob_key(policy_id: PolicyId, job_id: JobId, *, name: str, kind: str, data: bytes) -> str:
    """Return the key of one of a job's blobs; ``kind`` is its ending.

    It has the bytes' digest: a wave that is sampled or trained on twice never replaces a blob whose claim was
    committed.
    """
    return f"{wave_blobs(policy_id, job_id)}{name}-{hashlib.sha256(data).hexdigest()}.{kind}"


def episode_of(index: int, sample: Sample) -> int:
    """Return the episode of a group's sample, given the sample's index."""
    return index if sample.episode is None else sample.episode


def episode_rewards(group: Group) -> dict[int, float]:
    """Return the reward of each episode that has samples."""
    return {episode_of(index, sample): sample.reward for index, sample in enumerate(group.samples)}


def reward_mean(record: WaveRecord) -> float:
    """Return the mean reward of a record's episodes that have samples, and of those that were replaced."""
    kept = [reward for group in record.groups for reward in episode_rewards(group).values()]
    return fmean([*kept, *(one.reward for one in record.replaced for _ in range(one.episodes))])


def rewards_differ(group: Group) -> bool:
    """Return whether a group teaches a preference: its episodes do not all have the same reward."""
    return len(set(episode_rewards(group).values())) > 1


def trained_ranges(tokens: Sequence[int], trained: Ranges) -> Ranges:
    """Return the ranges of an answer's tokens that a loss falls on; without any said, that of all."""
    return trained or ((0, len(tokens)),)


def trained_count(tokens: Sequence[int], trained: Ranges) -> int:
    """Return how many of an answer's tokens a loss falls on."""
    return sum(end - start for start, end in trained_ranges(tokens, trained))


def encode_blob(content: list[Prompt] | list[RowLine] | WaveRecord | WaveLogprobs) -> bytes:
    """Return one of a wave's blobs."""
    return msgspec.msgpack.encode(content)


def decode_prompts(data: bytes) -> list[Prompt]:
    """Read a blob of prompts. Raises EventInvalid."""
    return _decode(data, list[Prompt], "prompts")


def decode_rows(data: bytes) -> list[RowLine]:
    """Read a blob of rows. Raises EventInvalid."""
    return _decode(data, list[RowLine], "rows")


def decode_record(data: bytes) -> WaveRecord:
    """Read a rollout record. Raises EventInvalid."""
    return _decode(data, WaveRecord, "wave record")


def decode_logprobs(data: bytes) -> WaveLogprobs:
    """Read the trainer's log-probabilities of a wave. Raises EventInvalid."""
    return _decode(data, WaveLogprobs, "wave log-probabilities")


def _decode(data: bytes, shape: type[T], what: str) -> T:
    try:
        return msgspec.msgpack.decode(data, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventInvalid(type=what, problem=str(error)) from error
