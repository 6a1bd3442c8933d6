"""``/mint/v1/events``: the tenant's events as they happen, as server-sent events.

Delivery is at most once from the moment of the answer's headers; who needs all of them subscribes to the bus.
"""

import asyncio
from collections.abc import AsyncIterator

import msgspec
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from mint_common.bus.port import Message
from mint_common.events.codec import Envelope
from mint_common.runtime.clock import Clock
from services.gateway.core.sse import HEARTBEAT, event_frame
from services.gateway.http.context import CallerDep, GatewayDep, HeldDep

router = APIRouter(prefix="/mint/v1/events", tags=["events"])

HEARTBEAT_SECONDS = 15.0

LOOK_SECONDS = 1.0
"""How soon an open stream notices that the gateway drains."""


@router.get("")
async def stream_events(request: Request, caller: CallerDep, gateway: GatewayDep, held: HeldDep) -> Response:
    """Stream events: ``id`` and ``event`` are the event's id and type, ``data`` its envelope."""
    # A base's name may have dots, so it can take several places of a subject.
    watching = gateway.bus.watch(subjects=[f"mint.*.*.{caller.tenant_id}.>"])
    messages = await held.enter_async_context(watching)
    headers = {"cache-control": "no-cache"}
    return StreamingResponse(
        _frames(messages, request.app, gateway.clock), media_type="text/event-stream", headers=headers
    )


async def _frames(messages: AsyncIterator[Message], app: FastAPI, clock: Clock) -> AsyncIterator[bytes]:
    yield HEARTBEAT
    quiet_since = clock.monotonic()
    upcoming = asyncio.ensure_future(anext(messages, None))
    try:
        # A draining gateway ends its streams; their readers connect to the next one.
        while not app.state.is_draining:
            # Not wait_for: cancelling the read would lose the message that it has in hand.
            done, _ = await asyncio.wait((upcoming,), timeout=LOOK_SECONDS)
            if done:
                message = upcoming.result()
                if message is None:
                    return
                upcoming = asyncio.ensure_future(anext(messages, None))
                envelope = msgspec.json.decode(message.data, type=Envelope)
                yield event_frame(event_id=envelope.id, event_type=envelope.type, data=message.data)
            elif clock.monotonic() - quiet_since < HEARTBEAT_SECONDS:
                continue
            else:
                yield HEARTBEAT
            quiet_since = clock.monotonic()
    finally:
        upcoming.cancel()
