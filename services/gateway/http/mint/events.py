"""``/mint/v1/events``: the tenant's events as server-sent events, from now on or after a cursor.

An event's SSE id is a cursor: a client that sends it as Last-Event-ID gets all later events, each once and in
order. A cursor is valid while its event is stored (a week); after that the answer is 410.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

import msgspec
from fastapi import APIRouter, FastAPI, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from mint_common.bus.port import Replay
from mint_common.errors import EventsExpired, Forbidden, Unauthorized, Unavailable
from mint_common.events.codec import Envelope
from mint_common.events.event import subject_token
from mint_common.runtime.clock import Clock
from services.gateway.http.edge.context import HeldDep, ReadCaller, authenticated
from services.gateway.http.edge.routes import GatewayRoute
from services.gateway.http.mint.context import EventsDep
from services.gateway.http.mint.event_types import check_event_types

router = APIRouter(prefix="/mint/v1/events", tags=["events"], route_class=GatewayRoute)

HEARTBEAT_SECONDS = 15.0

ASK_SECONDS = 5.0
"""Interval at which a stream checks whether its key is revoked."""

LOOK_SECONDS = 1.0
"""Interval at which an open stream checks whether the gateway drains."""

HEARTBEAT = b": heartbeat\n\n"
"""A comment that keeps proxies from closing a quiet stream; clients ignore it."""

EXAMPLE = """retry: 1000
id: 19f1c2a7b40-41

id: 19f1c2a7b40-42
event: alias.moved
data: {"id":"evt_...","type":"alias.moved","version":1,"cause":"req_...","time":1767225600.0,"data":{}}

"""
ANSWERS = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}}},
    410: {"description": "`events_expired`: not all events after this place are still stored."},
}


@router.get("", responses=ANSWERS, response_class=StreamingResponse)  # type: ignore[arg-type]  # FastAPI's Any
async def stream_events(  # noqa: PLR0917  # FastAPI passes them by name
    request: Request,
    caller: ReadCaller,
    parts: EventsDep,
    held: HeldDep,
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
    after: Annotated[str | None, Query(max_length=200)] = None,
    event_types: Annotated[list[str] | None, Query(alias="type", max_length=20)] = None,
) -> Response:
    """Stream events: ``id`` is a position in the log, ``event`` the type, ``data`` the envelope.

    Each ``type`` names a type of events; without any, events of all types come.

    Without Last-Event-ID (or ``after``, for clients that cannot send it) the stream begins now, and its first
    frame tells the position. With it, the stream begins after that position. 410 if the log no longer has
    that position: read the current state, then connect again without it.
    """
    check_event_types("type", event_types or ())
    held.enter_context(parts.streams.counted(caller.tenant_id))
    # A base's name may have dots, so it can span several tokens of a subject.
    subjects = [f"mint.{each}.{subject_token(caller.tenant_id)}.>" for each in set(event_types or ("*.*",))]
    opening = parts.log.replay(subjects=subjects, after=last_event_id or after)
    events = await held.enter_async_context(opening)
    headers = {"cache-control": "no-cache"}
    told = frames(events, request.app, parts.clock, lambda: _is_welcome(request))
    return StreamingResponse(told, media_type="text/event-stream", headers=headers)


async def _is_welcome(request: Request) -> bool:
    """Return whether the key of a stream is still valid, as far as is known."""
    try:
        (await authenticated(request)).authority.check(request.scope["route"].needed_scope)
    except (Unauthorized, Forbidden):
        return False
    except Unavailable:
        return True
    return True


async def frames(
    events: Replay, app: FastAPI, clock: Clock, is_welcome: Callable[[], Awaitable[bool]]
) -> AsyncIterator[bytes]:
    """Yield a stream's frames until its gateway drains or its key becomes invalid."""
    yield cursor_frame(events.place)
    quiet_since = asked_at = clock.monotonic()
    upcoming = asyncio.ensure_future(anext(events))
    try:
        # A draining gateway ends its streams; their readers connect to the next one.
        while not app.state.in_hand.is_draining:
            if clock.monotonic() - asked_at >= ASK_SECONDS:
                if not await is_welcome():
                    return
                asked_at = clock.monotonic()
            # Not wait_for: cancelling the read would lose the message that it is about to return.
            done, _ = await asyncio.wait((upcoming,), timeout=LOOK_SECONDS)
            if done:
                try:
                    placed = upcoming.result()
                except EventsExpired:
                    return  # the reader reconnects with its cursor, and gets the 410
                upcoming = asyncio.ensure_future(anext(events))
                event_type = msgspec.json.decode(placed.message.data, type=Envelope).type
                yield event_frame(event_id=placed.place, event_type=event_type, data=placed.message.data)
            elif clock.monotonic() - quiet_since < HEARTBEAT_SECONDS:
                continue
            else:
                yield HEARTBEAT
            quiet_since = clock.monotonic()
    finally:
        upcoming.cancel()


def cursor_frame(cursor: str) -> bytes:
    """Return a frame without an event: the cursor of the start, and the delay before a reconnect."""
    return b"retry: 1000\nid: %b\n\n" % cursor.encode()


def event_frame(*, event_id: str, event_type: str, data: bytes) -> bytes:
    """Return a named event. JSON has no raw line break, so ``data`` is one line."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), event_type.encode(), data)
