"""Sampled texts token by token: no text is lost, and a page has a bounded number of spans."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.console.token_spans import SpanRoom, episode_views

TOKENS = st.lists(st.tuples(st.text(max_size=4), st.floats(-20, 0)), min_size=1, max_size=40)


def part_of(tokens: list[tuple[str, float]], *, has_texts: bool = True) -> dict:
    part = {
        "kind": "sampled",
        "text": "".join(text for text, _ in tokens),
        "tokens": list(range(len(tokens))),
        "logprobs": [logprob for _, logprob in tokens],
    }
    return part | ({"token_texts": [text for text, _ in tokens]} if has_texts else {})


def episodes_of(*parts: dict) -> list[dict]:
    return [{"episode": 0, "reward": 1.0, "outcome": "ok", "segments": [list(parts)]}]


@given(st.lists(TOKENS, min_size=1, max_size=5), st.integers(0, 60))
def test_every_text_is_shown_once_within_the_room(parts, room):
    context = {"kind": "context", "text": "between", "tokens": [1, 2]}
    shown = [each for tokens in parts for each in (part_of(tokens), context)]
    left = SpanRoom(left=room)
    (view,) = episode_views(episodes_of(*shown), left)
    (spans,) = view.segments
    assert "".join(span.text for span in spans) == "".join(each["text"] for each in shown)
    assert len(spans) <= room + len(shown)
    assert left.left >= 0
    assert all(span.title for span in spans if span.level)


def test_likely_neighbours_share_a_span_and_others_say_their_number():
    tokens = [("a", -0.1), ("b", -0.01), ("c", -4.0), ("d", -0.5), ("e", 0.0)]
    (view,) = episode_views(episodes_of(part_of(tokens)), SpanRoom())
    assert [(span.text, span.level, span.title) for span in view.segments[0]] == [
        ("ab", "0", "likely"),
        ("c", "4", "log-probability -4.00"),
        ("d", "1", "log-probability -0.50"),
        ("e", "0", "likely"),
    ]


@pytest.mark.parametrize("has_texts", [False, True])
def test_a_part_whose_tokens_have_no_text_is_shown_whole(has_texts):
    part = part_of([("a", -1.0), ("b", -1.0)], has_texts=has_texts)
    part = part | {"text": None, "token_texts": ["ab"]} if has_texts else part | {"text": None}
    (view,) = episode_views(episodes_of(part), SpanRoom())
    (span,) = view.segments[0]
    assert (span.text, span.level) == ("2 tokens", "2")
    assert "mean log-probability -1" in span.title


def test_log_ratios_colour_how_far_the_trainer_is_from_the_sampler():
    tokens = [("a", -0.1), ("b", -2.0), ("c", -4.0), ("d", -0.5)]
    part = part_of(tokens) | {"trainer_logprobs": [-0.1, -1.0, -4.1, -0.505]}
    (view,) = episode_views(episodes_of(part), SpanRoom(), colour="ratio")
    assert [(span.text, span.level, span.title) for span in view.segments[0]] == [
        ("a", "0", "equal"),
        ("b", "up-4", "log-ratio +1.000"),
        ("c", "down-2", "log-ratio -0.100"),
        ("d", "0", "equal"),
    ]
    (view,) = episode_views(episodes_of(part), SpanRoom(left=0), colour="ratio")
    assert [(span.level, span.title) for span in view.segments[0]] == [
        ("up-3", "mean log-ratio 0.2238, 4 tokens")
    ]


@pytest.mark.parametrize(
    ("colour", "part", "title"),
    [
        ("ratio", part_of([("a", -1.0)]), "no log-ratio"),
        ("likelihood", part_of([("a", -1.0)]) | {"logprobs": []}, "no log-probability"),
    ],
)
def test_a_text_without_numbers_has_no_colour(colour, part, title):
    (view,) = episode_views(episodes_of(part), SpanRoom(), colour=colour)
    assert [(span.text, span.level, span.title) for span in view.segments[0]] == [("a", "none", title)]
