"""Log-probabilities of the internal protocol in the two shapes of the OpenAI API."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import msgspec

from mint_common.generation import Delta, TokenAlternative
from services.gateway.core.json_types import JsonObject

_LOGPROB = attrgetter("logprob")


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
    ordered = tuple(sorted(alternatives, key=_LOGPROB, reverse=True))
    return Position(text=delta.token_texts[at], logprob=logprob, alternatives=ordered)


class CompletionLogprobs:
    """The shape of ``/v1/completions``, gathered; ``offset`` is the length of the text before.

    Positions are encoded as they come: a large answer has half a million numbers, which take ten times the
    room as objects, and seconds to encode in one go while all other requests wait.
    """

    def __init__(self, *, top: int, offset: int = 0) -> None:
        self._top = top
        self._offset = offset
        self._rows: tuple[list[bytes], ...] = ([], [], [], [])

    def add(self, positions: Sequence[Position]) -> None:
        """Take the next positions."""
        offsets = []
        for position in positions:
            offsets.append(self._offset)
            self._offset += len(position.text)
        columns: tuple[Sequence[object], ...] = (
            [position.text for position in positions],
            [position.logprob for position in positions],
            [_top_by_text(position, self._top) for position in positions] if self._top else [],
            offsets,
        )
        for row, column in zip(self._rows, columns, strict=True):
            if column:
                row.append(_items(column))

    def to_json(self) -> JsonObject:
        """Return all."""
        tokens, logprobs, top_logprobs, offsets = map(_array, self._rows)
        return {
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": top_logprobs if self._top else None,
            "text_offset": offsets,
        }


def _top_by_text(position: Position, top: int) -> dict[str, float]:
    """Return the ``top`` most likely tokens by text, and the chosen one whether or not it is among them."""
    best: dict[str, float] = {}
    for item in position.alternatives[:top]:
        best.setdefault(item.text, item.logprob)
    best.setdefault(position.text, position.logprob)
    return best


class ChatLogprobs:
    """The shape of ``/v1/chat/completions``, gathered; encoded as `CompletionLogprobs` are."""

    def __init__(self, *, top: int) -> None:
        self._top = top
        self._rows: list[bytes] = []

    def add(self, positions: Sequence[Position]) -> None:
        """Take the next positions."""
        if positions:
            self._rows.append(_items([_chat_position(position, self._top) for position in positions]))

    def to_json(self) -> JsonObject:
        """Return all."""
        return {"content": _array(self._rows), "refusal": None}


def _chat_position(position: Position, top: int) -> JsonObject:
    entry = _chat_token(position.text, position.logprob)
    best = [_chat_token(item.text, item.logprob) for item in position.alternatives[:top]]
    return {**entry, "top_logprobs": best}


def _chat_token(text: str, logprob: float) -> JsonObject:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _items(values: Sequence[object]) -> bytes:
    """Return some of an array's items, encoded."""
    return msgspec.json.encode(values)[1:-1]


def _array(items: Sequence[bytes]) -> msgspec.Raw:
    return msgspec.Raw(b"[%b]" % b",".join(items))
