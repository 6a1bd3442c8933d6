"""Sampled texts token by token, as a page shows them: how likely each was, in a bounded number of spans."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.gateway.core.console.words import likelihood, mean, number

Json = Mapping[str, Any]

MAX_SPANS = 6000
"""Maximum spans of a page, some 100 bytes each; texts behind them are shown whole, by their mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpan:
    """A text of one ``level``: context (empty), or 0 (likely) to 4 with the log-probability in ``title``."""

    text: str
    level: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeView:
    """An episode's reward and outcome, and the spans of its segments."""

    episode: int
    reward: float | None
    outcome: str
    segments: Sequence[Sequence[TextSpan]]


@dataclass(slots=True, kw_only=True)
class SpanRoom:
    """Number of spans that a page still has room for."""

    left: int = field(default=MAX_SPANS)


def episode_views(episodes: Sequence[Json], room: SpanRoom) -> list[EpisodeView]:
    """Return episodes as the API answers them in spans, as long as there is room token by token."""
    return [
        EpisodeView(
            episode=one["episode"],
            reward=one["reward"],
            outcome=one["outcome"],
            segments=[
                [span for part in segment for span in _spans(part, room)] for segment in one["segments"]
            ],
        )
        for one in episodes
    ]


def _spans(part: Json, room: SpanRoom) -> list[TextSpan]:
    text = part["text"] if part["text"] is not None else f"{len(part['tokens'])} tokens"
    if part["kind"] == "context":
        return [TextSpan(text=text)]
    logprobs, texts = part.get("logprobs") or (), part.get("token_texts") or ()
    if logprobs and len(texts) == len(logprobs):
        found = list(_of_tokens(texts, logprobs))
        if len(found) <= room.left:
            room.left -= len(found)
            return found
    told = f"mean log-probability {number(mean(logprobs))}, {len(part['tokens'])} tokens"
    return [TextSpan(text=text, level=likelihood(logprobs), title=told)]


def _of_tokens(texts: Sequence[str], logprobs: Sequence[float]) -> Iterator[TextSpan]:
    """Yield a span for each token; neighbouring likely ones share a span."""
    likely = ""
    for text, logprob in zip(texts, logprobs, strict=True):
        level = likelihood([logprob])
        if level == "0":
            likely += text
            continue
        if likely:
            yield TextSpan(text=likely, level="0", title="likely")
            likely = ""
        yield TextSpan(text=text, level=level, title=f"log-probability {logprob:.2f}")
    if likely:
        yield TextSpan(text=likely, level="0", title="likely")
