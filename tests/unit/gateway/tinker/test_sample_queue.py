"""Whose sample is next, and how many anybody may have."""

import pytest

from mint_common.errors import Overloaded
from services.gateway.core.tinker.sample_queue import KeyBounds, SampleQueue


def test_keys_are_served_in_turn():
    queue = SampleQueue(room=10, share=10)
    for request in ("a1", "a2", "a3", "b1"):
        queue.push(request[0], request)
    assert [queue.pop() for _ in range(5)] == ["a1", "b1", "a2", "a3", None]


def test_room_is_taken_and_given_back():
    queue = SampleQueue(room=1, share=1)
    queue.push("a", "a1")
    queue.push("a", "a2")
    assert [queue.pop(), queue.pop()] == ["a1", None]
    queue.finish("a")
    assert queue.pop() == "a2"


def test_one_key_leaves_room_for_others():
    queue = SampleQueue(room=3, share=2)
    for at in range(5):
        queue.push("flood", f"f{at}")
    assert [queue.pop() for _ in range(3)] == ["f0", "f1", None]
    queue.push("late", "l0")
    assert queue.pop() == "l0"


def test_what_waits_can_be_taken_out_and_what_runs_not():
    queue = SampleQueue(room=1, share=1)
    queue.push("a", "a1")
    queue.push("a", "a2")
    assert queue.pop() == "a1"
    assert not queue.remove("a", "a1")
    assert queue.remove("a", "a2")
    queue.finish("a")
    assert queue.pop() is None


def test_a_key_has_so_many_requests_and_so_many_bytes():
    bounds = KeyBounds(most=2, most_bytes=100)
    bounds.take("a", 1000)  # a single one may be larger: it is bounded by the context
    with pytest.raises(Overloaded):
        bounds.take("a", 1)
    bounds.give_back("a", 1000)
    bounds.take("a", 1)
    bounds.take("a", 1)
    bounds.take("b", 1)
    with pytest.raises(Overloaded):
        bounds.take("a", 1)
