"""The check of a serving request's body, read once.

Invariants: a field that the table does not name is refused, so nothing new of vLLM is open before somebody
has decided about it; what nests deeper or has more lists than an engine's readers bear is refused before it
is read; no error has a status that clients send again.
"""

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from mint_common.errors import InvalidField, MintError
from services.gateway.core.openai import field_shapes as shapes
from services.gateway.core.openai.engine_bounds import (
    MAX_DEPTH,
    check_conversation,
    check_structure,
    count_nested,
)
from services.gateway.core.openai.field_rows import NEVER_IN_TEMPLATES, VALUE_BYTES, Fate, Field
from services.gateway.core.openai.field_shapes import MAX_CHOICES, Token
from services.gateway.core.openai.field_table import SAMPLING_PARAMS, TABLE, Endpoint

DEFAULT_COMPLETION_TOKENS = 16
"""The OpenAI API's own default of ``max_tokens`` for completions."""


class ContextExceeded(MintError):
    """The prompt has {found} tokens, which leaves no room in the context of {max_context}."""

    code = "context_length_exceeded"
    http_status = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRequest:
    """What the gateway needs to know of a body.

    ``choices`` counts all prompts' answers; ``max_tokens`` is None where the context bounds an answer;
    ``likeliest`` is how many log-probabilities stand beside each token, None for none.
    """

    model: str
    stream: bool
    choices: int
    max_tokens: int | None
    likeliest: int | None


def check_fields(endpoint: Endpoint, body: bytes, *, max_context: int) -> ServingRequest:
    """Return what a body asks for. Raises InvalidField naming the first wrong field, ContextExceeded."""
    nested = count_nested(body, field="body", few=MAX_DEPTH)
    read = _read(body, _DECODERS[endpoint])
    _check_rows(read, TABLE[endpoint], is_large=len(body) > VALUE_BYTES)
    sampling = read
    if endpoint is Endpoint.GENERATE:
        sampling = read.sampling_params
        _check_rows(sampling, SAMPLING_PARAMS, is_large=len(body) > VALUE_BYTES)
    elif endpoint is Endpoint.TOKENIZE:
        _check_one_of(read, "messages", "prompt")
    check_conversation(read, nested=nested)
    for name in ("tokens", "token_ids"):
        _check_context(len(getattr(read, name, None) or ()), max_context)
    prompts = _prompts(read.prompt, max_context) if endpoint is Endpoint.COMPLETION else 1
    n = getattr(sampling, "n", None) or 1
    if n * prompts > MAX_CHOICES:
        raise InvalidField(field="n", problem=f"must be at most {MAX_CHOICES} over all prompts")
    return ServingRequest(
        model=read.model,
        stream=bool(getattr(read, "stream", None)),
        choices=n * prompts,
        max_tokens=_limit(endpoint, sampling),
        likeliest=_likeliest(endpoint, sampling),
    )


def _read(body: bytes, decoder: msgspec.json.Decoder[Any], field: str = "") -> Any:  # what it decodes into
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _named(str(error), field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidField(field="body", problem=f"is no JSON: {error}") from error


def _named(message: str, field: str) -> InvalidField:
    """Return msgspec's complaint as one about a field."""
    problem, _, path = message.partition(" - at `$")
    where = (field + path).strip("`.")
    words = problem.split("`")
    name = words[1] if len(words) > 1 else ""
    if problem.startswith("Object contains unknown field"):
        where, problem = f"{where}.{name}".lstrip("."), "is not supported here"
    elif problem.startswith("Object missing required field"):
        where, problem = f"{where}.{name}".lstrip("."), "is required"
    elif problem.startswith("Invalid enum value") and where.endswith("type"):
        problem = f"{problem}: only text is taken, and tools that the client carries out"
    return InvalidField(field=where[:200] or "body", problem=problem[:500])


def _check_rows(read: Any, rows: tuple[Field, ...], *, is_large: bool) -> None:
    for row in rows:
        value = getattr(read, row.name)
        if value is None:
            continue
        if row.fate in _CLOSED:
            _check_neutral(row, value)
        if is_large and _size_bytes(value) > row.most_bytes:
            raise InvalidField(field=row.name, problem=f"may have {row.most_bytes} bytes at most")
    for name in STRUCTURES:
        _check_structure(name, getattr(read, name, None))
    for name in NEVER_IN_TEMPLATES.intersection(getattr(read, "chat_template_kwargs", None) or ()):
        raise InvalidField(field=f"chat_template_kwargs.{name}", problem="is no value of a template")


_CLOSED = {Fate.SET, Fate.REFUSED}
STRUCTURES = ("response_format", "structured_outputs", "text", "output_config", "tools")
"""What an engine compiles."""
_JSON_TEXTS = {"json", "structural_tag"}
_ANY = msgspec.json.Decoder[Any]()


def _check_structure(name: str, value: object) -> None:
    """Check what a client says of an answer's build; JSON may stand in a text in it."""
    if value is None:
        return
    if isinstance(value, shapes.StructuredOutputs) and value.json_object is False:
        raise InvalidField(field=f"{name}.json_object", problem="must be true, or left out")
    said = _read(msgspec.json.encode(value), _ANY, name)
    check_structure(name, said)
    for key, inner in said.items() if isinstance(said, dict) else ():
        if isinstance(inner, str) and inner.lstrip()[:1] in {"{", "["}:
            try:
                check_structure(name, msgspec.json.decode(inner))
            except (msgspec.DecodeError, RecursionError) as error:
                # A pattern may begin so; what is read as JSON must be some, or its counts would be hidden.
                if key in _JSON_TEXTS:
                    raise InvalidField(field=f"{name}.{key}", problem=f"is no JSON: {error}") from error


def _size_bytes(value: object) -> int:
    """Return the bytes of what is passed unread."""
    if isinstance(value, dict):
        return sum(len(name.encode()) + _size_bytes(each) for name, each in value.items())
    if isinstance(value, shapes.StructuredOutputs):
        return _size_bytes(value.json)
    return len(bytes(value)) if isinstance(value, msgspec.Raw) else 0


def _check_neutral(row: Field, value: object) -> None:
    if isinstance(value, msgspec.Raw) and _read(bytes(value), _ANY, row.name) not in row.neutral:
        raise InvalidField(field=row.name, problem=f"is not taken ({row.note}): leave it out")


def _check_one_of(read: Any, *names: str) -> None:
    if sum(getattr(read, name) is not None for name in names) != 1:
        raise InvalidField(field=names[0], problem=f"give exactly one of {', '.join(names)}")


def _check_context(found: int, max_context: int) -> None:
    if found > max_context:
        raise ContextExceeded(found=found, max_context=max_context)


def _prompts(raw: msgspec.Raw, max_context: int) -> int:
    """Return how many prompts there are. Raises InvalidField, ContextExceeded."""
    text = bytes(raw)
    prompt = _read(
        text, _PROMPTS.get(text[1:].lstrip()[:1], _TOKENS) if text[:1] == b"[" else _TEXT, "prompt"
    )
    if isinstance(prompt, str):
        return 1
    if not prompt:
        raise InvalidField(field="prompt", problem="must not be empty")
    if isinstance(prompt[0], int):
        _check_context(len(prompt), max_context)
        return 1
    if len(prompt) > MAX_CHOICES:
        problem = f"must be at most {MAX_CHOICES} prompts, got {len(prompt)}"
        raise InvalidField(field="prompt", problem=problem)
    for each in prompt:
        if isinstance(each, list):
            _check_context(len(each), max_context)
    return len(prompt)


_TEXT = msgspec.json.Decoder(str)
_TOKENS = msgspec.json.Decoder(list[Token])
_PROMPTS: dict[bytes, msgspec.json.Decoder[Any]] = {
    b'"': msgspec.json.Decoder(list[str]),
    b"[": msgspec.json.Decoder(list[list[Token]]),
}
"""By the first character of a list's first item."""


def _limit(endpoint: Endpoint, read: Any) -> int | None:
    if endpoint is Endpoint.COMPLETION:
        return DEFAULT_COMPLETION_TOKENS if read.max_tokens is None else int(read.max_tokens)
    names = ("max_completion_tokens", "max_output_tokens", "max_tokens")
    given = (getattr(read, name, None) for name in names)
    return next((limit for limit in given if limit is not None), None)


def _likeliest(endpoint: Endpoint, read: Any) -> int | None:
    """Return the most log-probabilities beside a token of the prompt or of the answer."""
    asked = [read.prompt_logprobs] if hasattr(read, "prompt_logprobs") else []
    if endpoint in _CHATS:
        asked.append((read.top_logprobs or 0) if read.logprobs else None)
    elif hasattr(read, "logprobs"):
        asked.append(read.logprobs)
    elif endpoint is Endpoint.RESPONSE:
        asked.append(read.top_logprobs)
    if isinstance(chosen := getattr(read, "logprob_token_ids", None), list):
        asked.append(len(chosen) or None)
    return max((each for each in asked if each is not None), default=None)


_CHATS = {Endpoint.CHAT, Endpoint.CHAT_TOKENS}


def _struct(name: str, rows: tuple[Field, ...]) -> Any:  # a msgspec.Struct
    needed = [(row.name, row.shape) for row in rows if row.is_needed]
    others = [(row.name, row.shape, None) for row in rows if not row.is_needed]
    return msgspec.defstruct(name, [*needed, *others], forbid_unknown_fields=True)


def _decoder(endpoint: Endpoint) -> msgspec.json.Decoder[Any]:
    rows = [
        replace(row, shape=_struct("SamplingParams", SAMPLING_PARAMS))
        if row.name == "sampling_params"
        else row
        for row in TABLE[endpoint]
    ]
    return msgspec.json.Decoder(_struct(endpoint.name, tuple(rows)))


_DECODERS = {endpoint: _decoder(endpoint) for endpoint in Endpoint}
