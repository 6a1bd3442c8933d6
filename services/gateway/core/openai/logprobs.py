"""Log-probabilities of the internal protocol in the two shapes of the OpenAI API."""

from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.generation import Delta, TokenAlternative
from services.gateway.core.json_types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """One generated token with its text, its log-probability and the most likely tokens in its place."""

    text: str
    logprob: float
    alternatives: tuple[TokenAlternative, ...]


def read_positions(delta: Delta) -> list[Position]:
    """Return the positions of a delta; empty when no log-probabilities were asked for."""
    return [_position(delta, at, logprob) for at, logprob in enumerate(delta.logprobs)]


def _position(delta: Delta, at: int, logprob: float) -> Position:
    alternatives = delta.alternatives[at] if delta.alternatives else ()
    ordered = tuple(sorted(alternatives, key=lambda item: -item.logprob))
    return Position(text=delta.token_texts[at], logprob=logprob, alternatives=ordered)


def completion_logprobs(positions: Sequence[Position], *, top: int, offset: int) -> JsonObject:
    """Return the shape of ``/v1/completions``; ``offset`` is the length of the text before."""
    offsets = []
    for position in positions:
        offsets.append(offset)
        offset += len(position.text)
    return {
        "tokens": [position.text for position in positions],
        "token_logprobs": [position.logprob for position in positions],
        "top_logprobs": [_top_by_text(position, top) for position in positions] if top else None,
        "text_offset": offsets,
    }


def _top_by_text(position: Position, top: int) -> dict[str, float]:
    """Return the ``top`` most likely tokens by text, and the chosen one whether or not it is among them."""
    best: dict[str, float] = {}
    for item in position.alternatives[:top]:
        best.setdefault(item.text, item.logprob)
    best.setdefault(position.text, position.logprob)
    return best


def chat_logprobs(positions: Sequence[Position], *, top: int) -> JsonObject:
    """Return the shape of ``/v1/chat/completions``."""
    return {"content": [_chat_position(position, top) for position in positions], "refusal": None}


def _chat_position(position: Position, top: int) -> JsonObject:
    entry = _chat_token(position.text, position.logprob)
    best = [_chat_token(item.text, item.logprob) for item in position.alternatives[:top]]
    return {**entry, "top_logprobs": best}


def _chat_token(text: str, logprob: float) -> JsonObject:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
