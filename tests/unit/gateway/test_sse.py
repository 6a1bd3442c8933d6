"""Frames of server-sent events."""

import asyncio

from fastapi import FastAPI

from mint_common.bus.port import PlacedMessage
from mint_common.runtime.draining import RequestsInHand
from services.gateway.http.mint.events import ASK_SECONDS, HEARTBEAT, cursor_frame, event_frame, frames
from tests.testing.clock import ManualClock


class Silence:
    """A log in which nothing happens."""

    place = "1-1"

    def __aiter__(self) -> "Silence":
        return self

    async def __anext__(self) -> PlacedMessage:
        await asyncio.Event().wait()
        raise AssertionError("nothing happens")


async def test_stream_ends_when_its_key_is_revoked():
    http, clock, answers = FastAPI(), ManualClock(), iter([True, False])
    http.state.in_hand = RequestsInHand()

    async def is_welcome() -> bool:
        return next(answers)

    stream = frames(Silence(), http, clock, is_welcome)
    assert await anext(stream) == cursor_frame("1-1")
    ending = asyncio.ensure_future(anext(stream, None))
    for _ in range(2):
        assert not ending.done()
        await clock.advance(ASK_SECONDS)
        await asyncio.sleep(1.1)
    assert await ending is None
    assert next(answers, None) is None


def test_named_event_has_id_and_type():
    frame = event_frame(event_id="evt_1", event_type="alias.moved", data=b'{"a":1}')
    assert frame == b'id: evt_1\nevent: alias.moved\ndata: {"a":1}\n\n'


def test_the_first_frame_tells_a_place_and_dispatches_nothing():
    assert cursor_frame("1f-7") == b"retry: 1000\nid: 1f-7\n\n"


def test_constants_are_what_clients_expect():
    assert HEARTBEAT.startswith(b":")
