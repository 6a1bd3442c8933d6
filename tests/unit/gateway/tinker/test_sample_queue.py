"""Whose sample is next, how many anybody may have, and whose answers are kept."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.tinker.sample_queue import RetainedAnswers, SampleQueue

ONE, LARGE = 2, 129


def pop_all(queue):
    return list(iter(queue.pop, None))


def test_tenants_are_served_in_turn_and_then_their_keys():
    queue = SampleQueue(100)
    for request in ("a1", "a2", "a3"):
        queue.push("a", "first", request, ONE)
    queue.push("a", "second", "a4", ONE)
    queue.push("b", "only", "b1", ONE)
    assert pop_all(queue) == ["a1", "b1", "a4", "a2", "a3"]


def test_room_is_taken_and_given_back():
    queue = SampleQueue(2)
    queue.push("a", "k", "a1", ONE)
    queue.push("a", "k", "a2", ONE)
    assert pop_all(queue) == ["a1"]
    queue.finish("a", "k", ONE)
    assert pop_all(queue) == ["a2"]


@pytest.mark.parametrize("size", [ONE, LARGE])
def test_a_tenant_leaves_room_for_others_whatever_it_sends_and_with_however_many_keys(size):
    queue = SampleQueue(512)
    for at in range(500):
        queue.push("flood", f"key{at}", f"f{at}", size)
    taken = len(pop_all(queue)) * size
    assert 256 <= taken <= 384
    queue.push("late", "k", "l0", LARGE)
    assert queue.pop() == "l0"


def test_a_key_leaves_room_for_its_tenants_others():
    queue = SampleQueue(512)
    for at in range(500):
        queue.push("t", "flood", f"f{at}", ONE)
    assert len(pop_all(queue)) == 170
    queue.push("t", "late", "l0", ONE)
    assert queue.pop() == "l0"


def test_one_that_is_larger_than_the_room_runs_alone():
    queue = SampleQueue(8)
    queue.push("a", "k", "a1", LARGE)
    queue.push("a", "k", "a2", LARGE)
    assert pop_all(queue) == ["a1"]
    queue.finish("a", "k", LARGE)
    assert pop_all(queue) == ["a2"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("kl"), st.integers(1, 128)), max_size=60))
def test_everything_runs_in_the_end(samples):
    queue = SampleQueue(64)
    sizes = {}
    for at, (tenant, key, sequences) in enumerate(samples):
        sizes[str(at)] = tenant, tenant + key, 1 + sequences
        queue.push(tenant, tenant + key, str(at), sizes[str(at)][2])
    running, done = [], Counter()
    while True:
        running += pop_all(queue)
        if not running:
            break
        request = running.pop(0)
        done[request] += 1
        queue.finish(*sizes[request])
    assert done == Counter(dict.fromkeys(sizes, 1))
    assert not queue.tenants


def test_what_waits_can_be_taken_out_and_what_runs_not():
    queue = SampleQueue(1)
    queue.push("a", "k", "a1", ONE)
    queue.push("a", "k", "a2", ONE)
    assert queue.pop() == "a1"
    assert not queue.remove("a", "k", "a1", ONE)
    assert queue.remove("a", "k", "a2", ONE)
    queue.finish("a", "k", ONE)
    assert queue.pop() is None
    assert not queue.tenants


def test_who_keeps_most_loses_first():
    kept = RetainedAnswers(100)
    kept.add("few", "f1", 30)
    for at in range(4):
        kept.add("many", f"m{at}", 40)
    dropped = []
    while (request := kept.too_many()) is not None:
        dropped.append(request)
        kept.forget("many", request)
    assert dropped == ["m0", "m1", "m2"]
    kept.forget("few", "f1")
    kept.forget("few", "f1")
    assert kept.too_many() is None
