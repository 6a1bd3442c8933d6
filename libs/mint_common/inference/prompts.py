"""The beginning of a request's prompt as its body has it, for the choice of its engine."""

from array import array
from collections.abc import Sequence

import msgspec

MAX_BODY_BYTES = 1 << 20
"""Size of a body beyond which its prompt is not looked for: that takes 1 ms per MiB."""

_NOTHING = msgspec.Raw(b"")


class _Body(msgspec.Struct):
    """The fields that become the prompt, in their order there, undecoded."""

    tools: msgspec.Raw = _NOTHING
    system: msgspec.Raw = _NOTHING
    instructions: msgspec.Raw = _NOTHING
    messages: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    token_ids: msgspec.Raw = _NOTHING


_DECODER = msgspec.json.Decoder(_Body)


def prompt_of_body(body: bytes) -> bytes:
    """Return the prompt of a request in JSON, as its client wrote it; nothing of one that cannot be read.

    A client that goes on with a conversation writes its beginning as before.
    """
    if len(body) > MAX_BODY_BYTES:
        return b""
    try:
        found = _DECODER.decode(body)
    except msgspec.MsgspecError:
        return b""  # the engine says why
    return b"".join(bytes(getattr(found, name)) for name in _Body.__struct_fields__)


def prompt_of_tokens(tokens: Sequence[int], *, max_bytes: int) -> bytes:
    """Return the first tokens of a prompt as int32; nothing of numbers that are no tokens."""
    try:
        return array("i", tokens[: max_bytes // 4]).tobytes()
    except (OverflowError, TypeError):
        return b""  # the engine says why
