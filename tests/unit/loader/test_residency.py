"""Residency: what is on the engine, and who may leave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mint_common.errors import NotFound, PreconditionFailed
from mint_common.ids import Digest
from services.loader.core.residency import Capacity, Readiness, Residency, Tier

CAPACITY = Capacity(slots=2, host=4, host_bytes=100)


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def ready(residency: Residency, number: int, *, size: int = 10, in_flight: int = 0) -> Residency:
    return residency.reserve(digest(number), size).become_ready(
        digest(number), load_seconds=0.5, in_flight=in_flight, now=float(number)
    )


def test_least_recently_used_goes_first() -> None:
    residency = Residency(capacity=CAPACITY)
    for number in range(4):
        residency = ready(residency, number)
    used = residency.acquire(digest(0), now=9.0).release(digest(0), now=9.5)
    room = used.plan_room(10)
    assert room.fits
    assert room.victims == (digest(1),)


def test_bytes_bound_room_as_well() -> None:
    residency = ready(ready(Residency(capacity=CAPACITY), 0, size=60), 1, size=30)
    assert residency.plan_room(10).victims == ()
    assert residency.plan_room(20).victims == (digest(0),)
    assert residency.plan_room(90).victims == (digest(0), digest(1))


def test_too_large_for_the_engine_is_hopeless() -> None:
    room = Residency(capacity=CAPACITY).plan_room(101)
    assert (room.fits, room.hopeless) == (False, True)


def test_pinned_is_never_a_victim_and_can_make_room_hopeless() -> None:
    residency = Residency(capacity=CAPACITY)
    for number in range(4):
        residency = ready(residency, number).with_pin(digest(number), pinned=True)
    room = residency.plan_room(10)
    assert (room.fits, room.hopeless) == (False, True)
    assert residency.with_pin(digest(2), pinned=False).plan_room(10).victims == (digest(2),)


def test_in_flight_is_never_a_victim_but_there_is_hope() -> None:
    residency = Residency(capacity=CAPACITY)
    for number in range(4):
        residency = ready(residency, number, in_flight=1)
    room = residency.plan_room(10)
    assert (room.fits, room.hopeless) == (False, False)
    assert residency.release(digest(3), now=1.0).plan_room(10).victims == (digest(3),)


def test_waiters_hold_the_adapter_from_the_moment_it_is_ready() -> None:
    residency = ready(Residency(capacity=CAPACITY), 0, in_flight=3)
    with pytest.raises(PreconditionFailed, match="in use by 3 requests"):
        residency.evict(digest(0))


def test_slots_hold_the_most_recently_used() -> None:
    residency = Residency(capacity=CAPACITY)
    for number in range(3):
        residency = ready(residency, number)
    tiers = [residency.residents[digest(number)].tier for number in range(3)]
    assert tiers == [Tier.HOST, Tier.SLOT, Tier.SLOT]
    back = residency.acquire(digest(0), now=5.0)
    tiers = [back.residents[digest(number)].tier for number in range(3)]
    assert tiers == [Tier.SLOT, Tier.HOST, Tier.SLOT]


def test_a_loading_adapter_holds_its_room_but_is_not_resident_yet() -> None:
    residency = Residency(capacity=CAPACITY).reserve(digest(0), 100)
    assert residency.residents[digest(0)].tier is Tier.STORED
    assert not residency.is_ready(digest(0))
    assert not residency.plan_room(1).fits
    for change in (residency.evict, lambda d: residency.with_pin(d, pinned=True)):
        with pytest.raises(NotFound):
            change(digest(0))
    assert residency.abandon(digest(0)).plan_room(100).fits


@given(st.lists(st.integers(1, 60), max_size=12), st.integers(1, 100))
def test_a_plan_never_displaces_more_than_it_must(sizes: list[int], need: int) -> None:
    residency = Residency(capacity=CAPACITY)
    for number, size in enumerate(sizes):
        room = residency.plan_room(size)
        for victim in room.victims:
            residency = residency.evict(victim)
        residency = ready(residency, number, size=size)
    room = residency.plan_room(need)
    assert room.fits
    for victim in room.victims[:-1]:
        residency = residency.evict(victim)
    if room.victims:
        assert not residency._fits(len(residency.residents) + 1, residency.used_bytes + need)


class Engine(RuleBasedStateMachine):
    """Any order of loads, failures, requests, pins and evictions keeps the promises."""

    def __init__(self) -> None:
        super().__init__()
        self.residency = Residency(capacity=CAPACITY)
        self.requests: dict[Digest, int] = {}
        self.now = 0.0

    def ready_ones(self) -> list[Digest]:
        return [d for d, r in self.residency.residents.items() if r.readiness is Readiness.READY]

    @rule(
        number=st.integers(0, 9), size=st.integers(1, 60), succeeds=st.booleans(), waiting=st.integers(0, 2)
    )
    def load(self, number: int, size: int, succeeds: bool, waiting: int) -> None:
        name = digest(number)
        room = self.residency.plan_room(size)
        if self.residency.get(name) is not None or not room.fits:
            return
        for victim in room.victims:
            before = self.residency.residents[victim]
            assert not before.pinned
            assert before.in_flight == 0
            self.residency = self.residency.evict(victim)
        self.residency = self.residency.reserve(name, size)
        if not succeeds:
            self.residency = self.residency.abandon(name)
            return
        self.now += 1
        self.residency = self.residency.become_ready(name, load_seconds=0.1, in_flight=waiting, now=self.now)
        self.requests[name] = waiting

    @precondition(lambda self: self.ready_ones())
    @rule(data=st.data())
    def request(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.ready_ones()))
        self.now += 1
        self.residency = self.residency.acquire(name, now=self.now)
        self.requests[name] += 1

    @precondition(lambda self: any(self.requests.values()))
    @rule(data=st.data())
    def end_request(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([d for d, count in self.requests.items() if count]))
        self.residency = self.residency.release(name, now=self.now)
        self.requests[name] -= 1

    @precondition(lambda self: self.ready_ones())
    @rule(data=st.data(), pinned=st.booleans())
    def pin(self, data: st.DataObject, pinned: bool) -> None:
        name = data.draw(st.sampled_from(self.ready_ones()))
        self.residency = self.residency.with_pin(name, pinned=pinned)

    @precondition(lambda self: self.ready_ones())
    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.ready_ones()))
        resident = self.residency.residents[name]
        if resident.pinned or resident.in_flight:
            with pytest.raises(PreconditionFailed):
                self.residency.evict(name)
        else:
            self.residency = self.residency.evict(name)
            assert self.requests.pop(name) == 0

    @invariant()
    def capacity_holds(self) -> None:
        residents = self.residency.residents.values()
        assert len(residents) <= CAPACITY.host
        assert sum(r.size_bytes for r in residents) == self.residency.used_bytes <= CAPACITY.host_bytes
        assert sum(r.in_slot for r in residents) <= CAPACITY.slots

    @invariant()
    def every_running_request_has_its_adapter(self) -> None:
        for name, count in self.requests.items():
            resident = self.residency.get(name)
            assert (resident.in_flight if resident else 0) == count


TestEngine = Engine.TestCase
