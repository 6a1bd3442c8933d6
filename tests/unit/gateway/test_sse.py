"""Frames of server-sent events."""

import json

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.sse import DONE, HEARTBEAT, data_frame, event_frame, place_frame


@given(st.dictionaries(st.text(), st.text()))
def test_a_frame_is_one_line_whatever_the_text(value):
    frame = data_frame(value)
    head, body = frame[:6], frame[6:]
    assert head == b"data: "
    assert body.endswith(b"\n\n")
    assert b"\n" not in body[:-2]
    assert b"\r" not in body
    assert json.loads(body) == value


def test_named_event_has_id_and_type():
    frame = event_frame(event_id="evt_1", event_type="alias.moved", data=b'{"a":1}')
    assert frame == b'id: evt_1\nevent: alias.moved\ndata: {"a":1}\n\n'


def test_the_first_frame_tells_a_place_and_dispatches_nothing():
    assert place_frame("1f-7") == b"retry: 1000\nid: 1f-7\n\n"


def test_constants_are_what_clients_expect():
    assert HEARTBEAT.startswith(b":")
    assert DONE == b"data: [DONE]\n\n"
