"""Conversations that continue without encoding again what was sampled.

The prompt of a later turn is the turn before, token by token, and a bridge: what the base's template puts
behind the stop token and around the new messages. It is the difference of two renderings of a conversation
whose answer is a dummy, so that no sampled text is ever encoded (the method of verifiers' and TRL's token
clients).
"""

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.rollout.core.door.requests import Json

_BRIDGED = frozenset({"tool", "user", "function"})
"""Roles of the messages after an answer that a bridge can render; others may change what came before."""
_DUMMY = "x"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An answered chat request: a digest of each message with the answer's, and all of its tokens.

    ``setting`` is the digest of the other fields that the template reads.
    """

    messages: tuple[bytes, ...]
    setting: bytes
    tokens: "array[int]"
    is_cut: bool


def turn_of(messages: Sequence[Json], template: Json, tokens: Sequence[int], *, is_cut: bool) -> Turn:
    """Return the turn whose last message is the answer; ``is_cut``: its completion has no stop token."""
    return Turn(
        messages=message_digests(messages),
        setting=_digest(template),
        tokens=array("i", tokens),
        is_cut=is_cut,
    )


def continued_turn(turns: Sequence[Turn], messages: Sequence[Json], template: Json) -> Turn | None:
    """Return the longest turn that messages repeat exactly and continue with a tail to bridge, if any."""
    digests, setting = message_digests(messages), _digest(template)
    found = [
        turn
        for turn in turns
        if turn.setting == setting
        and len(turn.messages) < len(digests)
        and digests[: len(turn.messages)] == turn.messages
        and all(each.get("role") in _BRIDGED for each in messages[len(turn.messages) :])
    ]
    return max(found, key=lambda turn: len(turn.messages), default=None)


def dummy_messages(answered: Json) -> list[Json]:
    """Return a conversation whose answer stands for another one: it makes the same tool calls."""
    answer: Json = {"role": "assistant", "content": _DUMMY}
    if calls := answered.get("tool_calls"):
        answer["tool_calls"] = list(calls)
    return [{"role": "user", "content": _DUMMY}, answer]


def bridged(turn: Turn, base: Sequence[int], full: Sequence[int], *, stop: int) -> tuple[int, ...] | None:
    """Return the prompt that continues a turn; None if the template changes what stands before the tail.

    ``base`` renders the dummy conversation, ``full`` the same with the tail and the beginning of the next
    answer; ``stop`` is the base's stop token. A completion that was cut off gets it where the template has
    one.
    """
    if tuple(full[: len(base)]) != tuple(base):
        return None
    last = max((at for at, token in enumerate(base) if token == stop), default=len(base) - 1)
    begin = last if turn.is_cut and base[last] == stop else last + 1
    return (*turn.tokens, *full[begin:])


def rendered(messages: Sequence[Json]) -> list[Json]:
    """Return messages as templates read them: without nulls, and with a text in each answer."""
    plain = [{name: value for name, value in each.items() if value is not None} for each in messages]
    return [{"content": "", **each} if each.get("role") == "assistant" else each for each in plain]


def message_digests(messages: Sequence[Json]) -> tuple[bytes, ...]:
    """Return a digest of what each message says: equal for the forms in which clients repeat an answer.

    A tool call is named by its place, since its id is no sampled text: each form of an answer has its own.
    """
    ids: list[object] = [
        call.get("id") for each in messages for call in each.get("tool_calls") or () if isinstance(call, dict)
    ]
    places = {name: place for place, name in reversed(list(enumerate(ids))) if isinstance(name, str)}
    return tuple(_message_digest(each, places) for each in messages)


def _message_digest(message: Json, places: Mapping[str, int]) -> bytes:
    answered = message.get("tool_call_id")
    calls = [
        {
            "id": _place(each.get("id"), places),
            "name": (each.get("function") or {}).get("name"),
            "arguments": _arguments((each.get("function") or {}).get("arguments")),
        }
        for each in message.get("tool_calls") or ()
        if isinstance(each, dict)
    ]
    return _digest(
        {
            "role": message.get("role"),
            "content": _text(message.get("content")),
            "calls": calls,
            "tool_call_id": _place(answered, places),
            "name": message.get("name"),
        }
    )


def _place(name: object, places: Mapping[str, int]) -> object:
    return places.get(name, name) if isinstance(name, str) else name


def _text(content: object) -> object:
    """Return a content as one text, if it has texts alone."""
    if isinstance(content, list) and all(isinstance(each, dict) and "text" in each for each in content):
        return "".join(str(each["text"]) for each in content)
    return content or ""


def _arguments(arguments: object) -> object:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _digest(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
