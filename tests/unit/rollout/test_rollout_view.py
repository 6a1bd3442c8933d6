"""What a user sees of the stored episodes of a step."""

from dataclasses import replace
from struct import pack
from typing import Any

import pytest

from mint_common.errors import InvalidField, NotFound
from mint_common.ids import WaveId
from mint_common.records import Episode, Group, Sample, WaveLogprobs, WaveRecord
from services.rollout.core.rollout_view import MAX_SHOWN, rollouts_view, shown_group, step_wave
from tests.testing.factories import make_claim
from tests.unit.rollout.world import history

(WAVE,) = history([0.5])
RECORDED = replace(WAVE, record=make_claim("r"))
GOOD = Episode(outcome="ok", reward=1.0, scores={"a": 2.0}, turns=2, stop="done")
BAD = Episode(outcome="env_error", reward=None, error="it raised")


def sample(episode: int | None, tokens: tuple[int, ...] = (5, 6, 7, 8)) -> Sample:
    logprobs = (-1.0, 0.0, -2.0, -3.0)[: len(tokens)]
    return Sample(
        tokens=tokens, logprobs=logprobs, reward=1.0, text="t", trained=((0, 1), (2, 4)), episode=episode
    )


def record(*groups: Group) -> WaveRecord:
    return WaveRecord(wave_id=WaveId("w"), revision=None, groups=groups, logprobs_temperature=0.7)


def view(
    found: WaveRecord, logprobs: WaveLogprobs | None = None, *, group: int = 0, episode: int | None = None
) -> Any:
    shown = shown_group(found, logprobs, group=group, episode=episode)
    texts = [" ".join(map(str, part)) for part in shown.parts]
    return rollouts_view(RECORDED, found, shown, texts, group=group)


def test_an_episode_is_its_segments_with_what_was_sampled_and_the_context_between() -> None:
    group = Group(prompt_tokens=(1, 2), samples=(sample(0), sample(0), sample(2)), episodes=(GOOD, BAD, GOOD))
    shown = view(record(group))
    assert (shown["groups"], shown["prompt"]["text"], shown["logprobs_temperature"]) == (1, "1 2", 0.7)
    first, second, lost = shown["episodes"]
    assert [first["episode"], second["episode"], lost["episode"]] == [0, 2, 1]
    assert (len(first["segments"]), len(second["segments"]), lost["segments"]) == (2, 1, [])
    assert (first["scores"], lost["outcome"], lost["error"]) == ({"a": 2.0}, "env_error", "it raised")
    assert second["segments"][0] == [
        {"kind": "sampled", "text": "5", "tokens": [5], "logprobs": [-1.0]},
        {"kind": "context", "text": "6", "tokens": [6]},
        {"kind": "sampled", "text": "7 8", "tokens": [7, 8], "logprobs": [-2.0, -3.0]},
    ]
    alone = Group(prompt_tokens=(1,), samples=(sample(0),), episodes=(GOOD, replace(GOOD, left_out=1)))
    told = [
        (each["reward"], each["left_out"], len(each["segments"])) for each in view(record(alone))["episodes"]
    ]
    assert told == [(1.0, 0, 1), (1.0, 1, 0)]
    for wanted in (1, 2):
        (one,) = view(record(group), episode=wanted)["episodes"]
        assert one["episode"] == wanted


def test_sampled_texts_have_the_trainers_logprobs_where_it_compared_them() -> None:
    group = Group(
        prompt_tokens=(1, 2), samples=(sample(0), sample(1), sample(2)), episodes=(GOOD, GOOD, GOOD)
    )
    # Of the second sample a number is missing, the third was not compared, nor was another group.
    own = (pack("<3f", -1.5, -2.5, -3.5), pack("<2f", -1.5, -2.5))
    logprobs = WaveLogprobs(wave_id=WaveId("w"), groups=(own,))
    compared, *others = view(record(group, group), logprobs)["episodes"]
    parts = compared["segments"][0]
    assert [part.get("trainer_logprobs") for part in parts] == [[-1.5], None, [-2.5, -3.5]]
    rest = [*others, *view(record(group, group), logprobs, group=1)["episodes"]]
    assert not any(
        "trainer_logprobs" in part for each in rest for parts in each["segments"] for part in parts
    )
    (alone,) = view(record(group), logprobs, episode=0)["episodes"]
    assert alone == compared


def test_a_sample_of_a_task_is_an_episode() -> None:
    plain = Sample(tokens=(5, 6), logprobs=(-1.0, -2.0), reward=0.25, text="t")
    (episode,) = view(record(Group(prompt_tokens=(1,), samples=(plain,))))["episodes"]
    assert (episode["reward"], [len(parts) for parts in episode["segments"]]) == (0.25, [1])


def test_what_a_step_does_not_have_is_refused_and_a_large_group_is_shown_by_episodes() -> None:
    group = Group(prompt_tokens=(1,), samples=(sample(0),), episodes=(GOOD,))
    for wrong, field in (({"group": 1}, "group"), ({"episode": 1}, "episode")):
        with pytest.raises(InvalidField) as caught:
            view(record(group), **wrong)
        assert caught.value.field == field
    large = (7,) * MAX_SHOWN
    whole = Sample(tokens=large, logprobs=(-1.0,) * len(large), reward=1.0, text="", episode=0)
    two = Group(prompt_tokens=(1,), samples=(whole, replace(whole, episode=1)), episodes=(GOOD, GOOD))
    with pytest.raises(InvalidField, match="name one of its 2 episodes"):
        view(record(two))
    assert len(view(record(two), episode=1)["episodes"]) == 1
    with pytest.raises(NotFound):
        step_wave([WAVE], 1)
    assert step_wave([WAVE, RECORDED], 1) is RECORDED
    assert step_wave([WAVE, RECORDED], None, RECORDED.wave_id) is RECORDED
    for step, wave_id in ((None, "wave_none"), (2, RECORDED.wave_id)):
        with pytest.raises(NotFound):
            step_wave([WAVE, RECORDED], step, wave_id)
