"""Sampled texts token by token, as a page shows them: coloured by a number, in a bounded number of spans."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from services.gateway.core.console.words import divergence, likelihood, mean, number

Json = Mapping[str, Any]
Colour = Literal["likelihood", "ratio"]
"""Number that colours a token: the sampler's log-probability, or the trainer's less the sampler's."""

MAX_SPANS = 6000
"""Maximum spans of a page, some 100 bytes each; texts behind them are shown whole, by their mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpan:
    """A text of one ``level`` with its number in ``title``.

    Levels are those of `likelihood` or `divergence`, ``none`` without a number; a context's is empty.
    """

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


def episode_views(
    episodes: Sequence[Json], room: SpanRoom, *, colour: Colour = "likelihood"
) -> list[EpisodeView]:
    """Return episodes as the API answers them in spans, as long as there is room token by token."""
    return [
        EpisodeView(
            episode=one["episode"],
            reward=one["reward"],
            outcome=one["outcome"],
            segments=[
                [span for part in segment for span in _spans(part, room, _COLOURINGS[colour])]
                for segment in one["segments"]
            ],
        )
        for one in episodes
    ]


def _spans(part: Json, room: SpanRoom, colouring: "_Colouring") -> list[TextSpan]:
    text = part["text"] if part["text"] is not None else f"{len(part['tokens'])} tokens"
    if part["kind"] == "context":
        return [TextSpan(text=text)]
    values, texts = colouring.values(part), part.get("token_texts") or ()
    if not values:
        return [TextSpan(text=text, level="none", title=f"no {colouring.noun}")]
    if len(texts) == len(values):
        found = list(_of_tokens(texts, values, colouring))
        if len(found) <= room.left:
            room.left -= len(found)
            return found
    title = f"mean {colouring.noun} {number(mean(values))}, {len(part['tokens'])} tokens"
    return [TextSpan(text=text, level=colouring.level(values), title=title)]


def _of_tokens(texts: Sequence[str], values: Sequence[float], colouring: "_Colouring") -> Iterator[TextSpan]:
    """Yield a span for each token; neighbours of level 0 share a span."""
    plain = ""
    for text, value in zip(texts, values, strict=True):
        level = colouring.level([value])
        if level == "0":
            plain += text
            continue
        if plain:
            yield TextSpan(text=plain, level="0", title=colouring.plain)
            plain = ""
        yield TextSpan(text=text, level=level, title=f"{colouring.noun} {value:{colouring.digits}}")
    if plain:
        yield TextSpan(text=plain, level="0", title=colouring.plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Colouring:
    """A number for each token of a part, and how it is shown."""

    noun: str
    digits: str
    plain: str
    values: Callable[[Json], Sequence[float]]
    level: Callable[[Sequence[float]], str]


def _logprobs(part: Json) -> Sequence[float]:
    return part.get("logprobs") or ()


def _log_ratios(part: Json) -> Sequence[float]:
    trained = part.get("trainer_logprobs") or ()
    return [own - sampled for own, sampled in zip(trained, _logprobs(part), strict=False)]


_COLOURINGS: Mapping[Colour, _Colouring] = {
    "likelihood": _Colouring(
        noun="log-probability", digits=".2f", plain="likely", values=_logprobs, level=likelihood
    ),
    "ratio": _Colouring(noun="log-ratio", digits="+.3f", plain="equal", values=_log_ratios, level=divergence),
}
