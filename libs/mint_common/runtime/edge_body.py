"""A request's body, whole and bounded, before anything interprets it."""

import json
import re

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from mint_common.errors import BodyTooLarge, InvalidField

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


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
    _check_text(body)
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


def _check_text(body: bytes) -> None:
    """Refuse half of a surrogate pair: Python's JSON lets it pass, no encoder, database or bus takes it."""
    if not _SURROGATE.search(body):
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidField(field="body", problem="a text has half of a surrogate pair") from error
    except (ValueError, RecursionError):
        return  # not JSON: whoever wants it as such will say so
