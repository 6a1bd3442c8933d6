"""A request's body, whole and bounded, before anything interprets it."""

import re

import msgspec
from starlette.datastructures import Headers
from starlette.types import Message, Receive

from mint_common.errors import BodyTooLarge, InvalidField

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_WHOLE_PAIRS = re.compile(
    rb"(?:[^\\]++|\\(?:[^u]|u(?![dD][89a-fA-F])"
    rb"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*+",
    re.DOTALL,
)
"""A text up to its first half of a pair."""


async def read_body(receive: Receive, headers: Headers, *, limit: int) -> bytes | None:
    """Return the body, or None when the client has gone. Raises BodyTooLarge, InvalidField."""
    announced = headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise BodyTooLarge(limit_bytes=limit)
    parts: list[bytes] = []
    size = 0
    is_complete = False
    while not is_complete:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise BodyTooLarge(limit_bytes=limit)
        is_complete = not message.get("more_body", False)
    body = b"".join(parts)
    if "json" in headers.get("content-type", ""):
        check_text(body)
    return body


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read, and then what comes after it."""
    is_read = False

    async def replay() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def check_text(body: bytes) -> None:
    """Refuse JSON with half of a surrogate pair, which Python takes, but no encoder, database or bus."""
    if not _SURROGATE.search(body):
        return
    try:
        msgspec.json.decode(body, type=msgspec.Raw)  # builds nothing, and knows pairs
    except (msgspec.DecodeError, RecursionError):
        # Half a pair, or no JSON: who wants it as such will say so. To tell them apart takes longer.
        if _WHOLE_PAIRS.match(body).end() < len(body):  # type: ignore[union-attr]  # it matches anything
            raise InvalidField(field="body", problem="a text has half of a surrogate pair") from None
