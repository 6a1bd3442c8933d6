"""Server-sent events as bytes (WHATWG HTML, section 9.2)."""

HEARTBEAT = b": heartbeat\n\n"
"""A comment: keeps proxies from closing a quiet stream, ignored by every client."""


def cursor_frame(cursor: str) -> bytes:
    """Return a frame without an event: the cursor where reading begins, and the delay before a reconnect."""
    return b"retry: 1000\nid: %b\n\n" % cursor.encode()


def event_frame(*, event_id: str, event_type: str, data: bytes) -> bytes:
    """Return a named event. JSON has no raw line break, so that ``data`` is one line."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), event_type.encode(), data)
