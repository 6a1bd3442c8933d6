"""The stored episodes of a step, as MinT's API shows them. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice, repeat
from struct import unpack
from typing import Literal

from mint_common.errors import InvalidField, NotFound
from mint_common.json_types import JsonObject
from mint_common.records import (
    Episode,
    Group,
    Sample,
    WaveLogprobs,
    WaveRecord,
    episode_of,
    trained_count,
    trained_ranges,
)
from services.rollout.core.wave import Wave

MAX_SHOWN = 64 << 10
"""Maximum tokens of an answer: each has a log-probability and a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPart:
    """Neighbouring tokens of a segment: ``sampled`` and trained on, or the ``context`` between.

    ``logprobs`` are the sampler's, and ``trainer_logprobs`` the trainer's where it compared them; a context
    has none.
    """

    kind: Literal["context", "sampled"]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    trainer_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownGroup:
    """A group of a record: the segments of its episodes, or of ``episode`` alone, by the episode's index."""

    group: Group
    episode: int | None
    segments: dict[int, list[list[ShownPart]]]

    @property
    def parts(self) -> list[tuple[int, ...]]:
        """Return the tokens of all texts to show, the prompt first, then in order."""
        own = [part.tokens for each in self.segments.values() for parts in each for part in parts]
        return [self.group.prompt_tokens, *own]

    @property
    def sampled(self) -> list[ShownPart]:
        """Return the sampled parts in order."""
        every = (part for each in self.segments.values() for parts in each for part in parts)
        return [part for part in every if part.kind == "sampled"]


def shown_group(
    record: WaveRecord, logprobs: WaveLogprobs | None = None, *, group: int, episode: int | None
) -> ShownGroup:
    """Return a group of a record, with the trainer's ``logprobs`` of it if there are.

    Raises InvalidField for what the record does not have, and when the group is too large.
    """
    if not 0 <= group < len(record.groups):
        problem = f"the step has groups 0 to {len(record.groups) - 1}"
        raise InvalidField(field="group", problem=problem)
    found, segments = record.groups[group], dict[int, list[list[ShownPart]]]()
    compared = logprobs.groups[group] if logprobs and group < len(logprobs.groups) else ()
    scores = chain(compared, repeat(b""))
    for (index, sample), scored in zip(enumerate(found.samples), scores, strict=False):
        if episode is None or episode_of(index, sample) == episode:
            segments.setdefault(episode_of(index, sample), []).append(list(_parts(sample, scored)))
    known = len(found.episodes) or len(found.samples)
    if episode is not None and not 0 <= episode < known:
        raise InvalidField(field="episode", problem=f"the group has episodes 0 to {known - 1}")
    shown = ShownGroup(group=found, episode=episode, segments=segments)
    count = sum(map(len, shown.parts))
    if count > MAX_SHOWN and episode is None:
        problem = f"the group has {count} tokens, more than {MAX_SHOWN}: name one of its {known} episodes"
        raise InvalidField(field="episode", problem=problem)
    return shown


def _parts(sample: Sample, scored: bytes) -> Iterator[ShownPart]:
    """Yield a sample's parts; ``scored`` are the trainer's log-probabilities of all its trained tokens."""
    begin, trained = 0, trained_count(sample.tokens, sample.trained)
    own = iter(unpack(f"<{trained}f", scored)) if len(scored) == 4 * trained else iter(())
    for start, end in trained_ranges(sample.tokens, sample.trained):
        if start > begin:
            yield ShownPart(kind="context", tokens=sample.tokens[begin:start])
        yield ShownPart(
            kind="sampled",
            tokens=sample.tokens[start:end],
            logprobs=sample.logprobs[start:end],
            trainer_logprobs=tuple(islice(own, end - start)),
        )
        begin = end
    if begin < len(sample.tokens):
        yield ShownPart(kind="context", tokens=sample.tokens[begin:])


def step_wave(waves: Sequence[Wave], step: int | None, wave_id: str | None = None) -> Wave:
    """Return the recorded wave of that step and id, the newest by default. Raises NotFound."""
    found = [
        wave
        for wave in waves
        if wave.record is not None and step in (None, wave.step) and wave_id in (None, wave.wave_id)
    ]
    if not found:
        raise NotFound(kind="recorded step", name=wave_id or ("latest" if step is None else str(step)))
    return found[-1]


def rollouts_view(
    wave: Wave,
    record: WaveRecord,
    shown: ShownGroup,
    texts: Sequence[str | None],
    *,
    group: int,
    staleness: int = 0,
    token_texts: Sequence[Sequence[str]] | None = None,
) -> JsonObject:
    """Return a group with its episodes; ``texts`` are those of `ShownGroup.parts`, None where unknown.

    ``staleness`` is that of the wave's samples. ``token_texts`` are those of `ShownGroup.sampled`.
    """
    prompt, *rest = texts
    of_parts = iter(rest)
    of_tokens = iter(token_texts or ())
    episodes = [
        {
            "episode": index,
            **_outcome(shown.group, index),
            "segments": [[_part(part, next(of_parts), of_tokens) for part in parts] for parts in segments],
        }
        for index, segments in shown.segments.items()
    ]
    lost = [
        {"episode": index, **_outcome(shown.group, index), "segments": []}
        for index in range(len(shown.group.episodes))
        if index not in shown.segments and shown.episode in (None, index)
    ]
    return {
        "step": wave.step,
        "wave_id": wave.wave_id,
        "revision": record.revision,
        "revision_number": wave.sampled_number,
        "staleness": staleness,
        "logprobs_temperature": record.logprobs_temperature,
        "groups": len(record.groups),
        "group": group,
        "prompt": {"text": prompt, "tokens": list(shown.group.prompt_tokens)},
        "episodes": [*episodes, *lost],
    }


def _outcome(group: Group, index: int) -> JsonObject:
    """Return an episode's fields; those of a sample of a task or file are its reward's alone."""
    if group.episodes:
        episode = group.episodes[index]
    else:
        episode = Episode(outcome="ok", reward=group.samples[index].reward)
    return asdict(episode)


def _part(part: ShownPart, text: str | None, of_tokens: Iterator[Sequence[str]]) -> JsonObject:
    shown: JsonObject = {"kind": part.kind, "text": text, "tokens": list(part.tokens)}
    if part.logprobs:
        shown["logprobs"] = list(part.logprobs)
    if part.trainer_logprobs:
        shown["trainer_logprobs"] = list(part.trainer_logprobs)
    if part.kind == "sampled" and (token_texts := next(of_tokens, None)) is not None:
        shown["token_texts"] = list(token_texts)
    return shown
