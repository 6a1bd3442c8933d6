"""What a large body asks for, read in one pass that stops at the first thing wrong.

Python's JSON and the checks behind it build an object for each value and an error for each wrong one: of a
body of megabytes that takes seconds. After this check a body has as many values as its route can use.
"""

from dataclasses import fields
from typing import Any

import msgspec

from mint_common.errors import InvalidField
from services.gateway.core.json_reading import read_json
from services.gateway.core.openai.fields import ContextExceeded
from services.gateway.core.openai.requests import ChatBody, ChatTurn, CompletionBody
from services.gateway.core.openai.sampling import check_choices

REST_BYTES = 64 << 10
"""Of a field that holds no prompt."""

Number = int | float
"""Whether a token may be written as one is said where it is checked."""


class _Part(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    text: str


def _struct(name: str, wide: dict[str, Any], *bodies: type) -> Any:  # a msgspec.Struct
    names = dict.fromkeys(field.name for body in bodies for field in fields(body))
    members = [(each, wide.get(each, msgspec.Raw), None) for each in names]
    return msgspec.defstruct(name, members, forbid_unknown_fields=True)


_Turn: Any = _struct("_Turn", {"content": str | list[_Part] | None}, ChatTurn)
_Sketch = _struct(
    "_Sketch",
    {"messages": list[_Turn] | None},
    CompletionBody,
    ChatBody,
)


def check_large_body(body: bytes, *, max_context: int) -> None:
    """Refuse a body with more in it than any answer could be about. Raises InvalidField, ContextExceeded."""
    sketch = read_json(body, _Sketch)
    _check_prompts(sketch.prompt, max_context)
    _check_turns(sketch.messages, max_context)
    for name in sketch.__struct_fields__:
        if name not in {"prompt", "messages"}:
            _check_rest(name, getattr(sketch, name))


def _check_prompts(raw: msgspec.Raw | None, max_context: int) -> None:
    text = b"" if raw is None else bytes(raw)
    if not text.startswith(b"["):
        if not text.startswith(b'"'):
            _check_rest("prompt", text)
        return
    first = text[1:].lstrip()[:1]
    if first == b'"':
        check_choices(len(read_json(text, list[str], field="prompt")))
    elif first == b"[":
        check_choices(text.count(b"[") - 1)  # before they are read: a million lists take a second
        for prompt in read_json(text, list[list[Number]], field="prompt"):
            _check_context(len(prompt), max_context)
    else:
        _check_context(len(read_json(text, list[Number], field="prompt")), max_context)


def _check_turns(turns: Any, max_context: int) -> None:  # as the sketch has it
    _check_context(len(turns or ()), max_context)
    for turn in turns or ():
        if isinstance(turn.content, list):
            _check_context(len(turn.content), max_context)
        for name in _Turn.__struct_fields__:
            if name != "content":
                _check_rest(f"messages.{name}", getattr(turn, name))


def _check_context(found: int, max_context: int) -> None:
    if found > max_context:
        raise ContextExceeded(found=found, max_context=max_context)


def _check_rest(name: str, value: Any) -> None:  # a Raw, its bytes or None
    if value is not None and len(bytes(value)) > REST_BYTES:
        raise InvalidField(field=name, problem=f"may have {REST_BYTES} bytes at most")
