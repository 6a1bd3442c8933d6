"""A request's body, whole and bounded, before anything interprets it."""

import re
from collections.abc import Callable

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


def announced_bytes(headers: Headers, *, limit: int) -> int:
    """Return the length that a request says its body has; 0 if it says none. Raises BodyTooLarge."""
    announced = headers.get("content-length", "0")
    size = int(announced) if announced.isdecimal() else 0
    if size > limit:
        raise BodyTooLarge(limit_bytes=limit)
    return size


async def read_body(
    receive: Receive, headers: Headers, *, limit: int, hold: Callable[[int], None] = lambda _: None
) -> bytes | None:
    """Return the body, or None when the client has gone. Raises BodyTooLarge.

    ``hold`` is called with the size of each chunk; an exception from it ends the reading.
    """
    announced_bytes(headers, limit=limit)
    parts: list[bytes] = []
    size = 0
    is_complete = False
    while not is_complete:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit_bytes=limit)
        if part:
            hold(len(part))
            parts.append(part)
        is_complete = not message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


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


def check_text(body: bytes, headers: Headers) -> None:
    """Refuse JSON with half of a surrogate pair, which encoders, databases and the bus do not accept."""
    if "json" not in headers.get("content-type", "") or not _SURROGATE.search(body):
        return
    try:
        msgspec.json.decode(body, type=msgspec.Raw)  # builds nothing, and knows pairs
    except (msgspec.DecodeError, RecursionError):
        # Half a pair, or not JSON: the parser reports the latter. Telling them apart here would take longer.
        if _WHOLE_PAIRS.match(body).end() < len(body):  # type: ignore[union-attr]  # it matches anything
            raise InvalidField(field="body", problem="a text has half of a surrogate pair") from None
