"""Trajectories: the model calls of an episode as the token sequences that training reads.

Invariants:
- Calls are joined by exact token prefixes, never by texts: a text encodes to other tokens than were sampled.
- Each sampled token is trained in exactly one segment; all other tokens are context.
- Along a segment, the tokens are those that the model read and sampled.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from mint_common.records import Episode, Group, Ranges, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One answer of the model: its prompt, and the sampled tokens with a log-probability each.

    A completion that ends with ``stop`` has its stop token; one of ``length`` was cut off.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: Literal["stop", "length"] = "stop"
    text: str = ""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Return the prompt and the completion."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Tokens that continue each other: ``trained`` has the ranges of ``tokens`` that were sampled here.

    ``logprobs`` has one number per token, 0 outside those ranges. ``text`` joins the sampled texts.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    trained: Ranges
    text: str = ""

    @property
    def prompt_length(self) -> int:
        """Return how many tokens come before the first sampled one."""
        return self.trained[0][0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """An episode with its segments, which one with an error has none of."""

    episode: Episode
    segments: tuple[Segment, ...]


def segments_of(calls: Sequence[ModelCall]) -> tuple[Segment, ...]:
    """Return the segments of calls in the order of their answers.

    A call continues the longest segment that its prompt begins with: what the prompt has beyond it is
    context. Any other call, such as a retry, a branch or a conversation of its own, begins a segment whose
    whole prompt is context.
    """
    found: tuple[Segment, ...] = ()
    for call in calls:
        found = with_call(found, call)
    return found


def with_call(segments: tuple[Segment, ...], call: ModelCall) -> tuple[Segment, ...]:
    """Return the segments of an episode after one more call, as `segments_of`."""
    begins = [at for at, each in enumerate(segments) if call.prompt[: len(each.tokens)] == each.tokens]
    if not begins:
        return (*segments, _continued(Segment(tokens=(), logprobs=(), trained=()), call))
    at = max(begins, key=lambda at: len(segments[at].tokens))
    return (*segments[:at], _continued(segments[at], call), *segments[at + 1 :])


def _continued(segment: Segment, call: ModelCall) -> Segment:
    start, end = len(call.prompt), len(call.prompt) + len(call.completion)
    context = (0.0,) * (start - len(segment.tokens))
    return Segment(
        tokens=call.tokens,
        logprobs=(*segment.logprobs, *context, *call.logprobs),
        trained=(*segment.trained, (start, end)),
        text="\n".join((segment.text, call.text)) if segment.trained else call.text,
    )


def group_of(trajectories: Sequence[Trajectory], *, dtype: str) -> Group | None:
    """Return the group of one task's episodes; None if none of them has a segment.

    The prompt of a group is the longest common beginning of its segments, without a sampled token. It has at
    least one token: segments that begin with another token than most do are left out, and counted.
    """
    first = _most_frequent([s.tokens[0] for each in trajectories for s in each.segments])
    kept = [
        (index, segment, each.episode)
        for index, each in enumerate(trajectories)
        for segment in each.segments
        if segment.tokens[0] == first
    ]
    if not kept:
        return None
    prompt = _common_prompt([segment for _, segment, _ in kept])
    return Group(
        prompt_tokens=prompt,
        samples=tuple(_sample(one, len(prompt), index, episode) for index, one, episode in kept),
        sampler_dtype=dtype,
        episodes=tuple(
            replace(each.episode, left_out=sum(s.tokens[0] != first for s in each.segments))
            for each in trajectories
        ),
    )


def _most_frequent(tokens: Sequence[int]) -> int | None:
    return Counter(tokens).most_common(1)[0][0] if tokens else None


def _common_prompt(segments: Sequence[Segment]) -> tuple[int, ...]:
    columns = zip(*(segment.tokens[: segment.prompt_length] for segment in segments), strict=False)
    return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))


def _sample(segment: Segment, begin: int, index: int, episode: Episode) -> Sample:
    assert episode.reward is not None, "an episode without a reward has no segments"
    tokens = segment.tokens[begin:]
    trained = tuple((start - begin, end - begin) for start, end in segment.trained)
    return Sample(
        tokens=tokens,
        logprobs=segment.logprobs[begin:],
        reward=episode.reward,
        text=segment.text,
        trained=() if trained == ((0, len(tokens)),) else trained,
        episode=index,
    )
