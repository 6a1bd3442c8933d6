"""Server-sent events as bytes (WHATWG HTML, section 9.2)."""

import msgspec

from services.gateway.core.json_types import JsonObject

HEARTBEAT = b": heartbeat\n\n"
"""A comment: keeps proxies from closing a quiet stream, ignored by every client."""

DONE = b"data: [DONE]\n\n"
"""How the OpenAI API ends a stream."""


def data_frame(value: JsonObject) -> bytes:
    """Return an unnamed event that carries one JSON value, as the OpenAI API streams them."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def cursor_frame(cursor: str) -> bytes:
    """Return a frame without an event: the cursor where reading begins, and the delay before a reconnect."""
    return b"retry: 1000\nid: %b\n\n" % cursor.encode()


def event_frame(*, event_id: str, event_type: str, data: bytes) -> bytes:
    """Return a named event. JSON has no raw line break, so that ``data`` is one line."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), event_type.encode(), data)
