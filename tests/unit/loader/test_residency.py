"""Residency: what is on the engine, in which state, and who may leave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mint_common.errors import NotFound, PreconditionFailed
from mint_common.ids import Digest, TenantId
from services.loader.core.residency import Capacity, Residency, State, Tier

TENANT = TenantId("t")
CAPACITY = Capacity(slots=2, host=4, host_bytes=100)


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def empty() -> Residency:
    return Residency(capacity=CAPACITY)


def staged(
    residency: Residency, number: int, *, size: int = 10, claims: int = 0, seconds: float = 0.5
) -> Residency:
    return residency.reserve(digest(number), size).finish_load(
        digest(number), size_bytes=size, load_seconds=seconds, claims=claims, now=float(number)
    )


def ready(residency: Residency, number: int, *, victim: int | None = None, claims: int = 0) -> Residency:
    loaded = staged(residency, number, claims=claims)
    left = None if victim is None else digest(victim)
    return loaded.take_slot(digest(number), victim=left).finish_slot(digest(number), now=float(number))


def test_least_recently_used_goes_first() -> None:
    residency = empty()
    for number in range(4):
        residency = staged(residency, number)
    used = residency.claim(digest(0), now=9.0).unclaim(digest(0), now=9.5)
    room = used.plan_room(10)
    assert room.fits
    assert room.victims == (digest(1),)


def test_what_is_used_often_outlives_a_scan_of_names_used_once() -> None:
    residency = empty()
    residency = staged(residency, 0)
    for _ in range(20):
        residency = residency.claim(digest(0), now=1.0).unclaim(digest(0), now=1.0)
    for number in range(1, 12):
        for victim in residency.plan_room(10).victims:
            residency = residency.evict(victim)
        residency = staged(residency, number)
    assert residency.in_host(digest(0))


def test_of_two_used_alike_the_cheaper_to_bring_back_leaves_first() -> None:
    residency = empty()
    residency = staged(residency, 0, seconds=0.1)
    residency = staged(staged(residency, 1, seconds=5.0), 2, seconds=5.0)
    assert residency.plan_room(75).victims == (digest(0),)


def test_bytes_bound_room_as_well() -> None:
    residency = staged(staged(empty(), 0, size=60), 1, size=30)
    assert residency.plan_room(10).victims == ()
    assert residency.plan_room(20).victims == (digest(0),)
    assert residency.plan_room(90).victims == (digest(0), digest(1))


def test_a_small_victim_is_spared_when_a_large_one_must_go_anyway() -> None:
    residency = staged(staged(empty(), 0, size=10), 1, size=80)
    assert residency.plan_room(60).victims == (digest(1),)


def test_a_load_takes_what_it_really_weighs() -> None:
    residency = empty().reserve(digest(0), 90)
    assert residency.used_bytes == 90
    done = residency.finish_load(digest(0), size_bytes=40, load_seconds=0.1, claims=0, now=1.0)
    assert done.used_bytes == 40


def test_too_large_for_the_engine_is_hopeless() -> None:
    room = empty().plan_room(101)
    assert (room.fits, room.hopeless) == (False, True)


def test_pinned_is_never_a_victim_and_can_make_room_hopeless() -> None:
    residency = empty()
    for number in range(4):
        residency = staged(residency, number).with_pin(digest(number), TENANT, pinned=True)
    room = residency.plan_room(10)
    assert (room.fits, room.hopeless) == (False, True)
    assert residency.with_pin(digest(2), TENANT, pinned=False).plan_room(10).victims == (digest(2),)


def test_claimed_is_never_a_victim_but_there_is_hope() -> None:
    residency = empty()
    for number in range(4):
        residency = staged(residency, number, claims=1)
    room = residency.plan_room(10)
    assert (room.fits, room.hopeless) == (False, False)
    assert residency.unclaim(digest(3), now=1.0).plan_room(10).victims == (digest(3),)


def test_waiters_claim_the_adapter_from_the_moment_its_load_ends() -> None:
    residency = staged(empty(), 0, claims=3)
    with pytest.raises(PreconditionFailed, match="in use by 3 requests"):
        residency.evict(digest(0))


def test_the_states_of_a_load_in_order() -> None:
    residency = empty().reserve(digest(0), 10)
    seen = [(residency.residents[digest(0)].state, residency.residents[digest(0)].tier)]
    for change in (
        lambda r: r.finish_load(digest(0), size_bytes=10, load_seconds=1.0, claims=0, now=0.0),
        lambda r: r.take_slot(digest(0), victim=None),
        lambda r: r.finish_slot(digest(0), now=0.0),
    ):
        residency = change(residency)
        seen.append((residency.residents[digest(0)].state, residency.residents[digest(0)].tier))
    assert seen == [
        (State.FETCHING, Tier.STORED),
        (State.STAGED, Tier.HOST),
        (State.ACTIVATING, Tier.HOST),
        (State.READY, Tier.SLOT),
    ]


def test_a_slot_is_taken_from_an_idle_adapter_which_stays_in_host_memory() -> None:
    residency = ready(ready(empty(), 0), 1)
    residency = ready(residency, 2, victim=0)
    tiers = [residency.residents[digest(number)].tier for number in range(3)]
    assert tiers == [Tier.HOST, Tier.SLOT, Tier.SLOT]


def test_a_running_request_keeps_the_slot() -> None:
    residency = ready(empty(), 0, claims=1).begin(digest(0))
    with pytest.raises(AssertionError):
        staged(residency, 1).take_slot(digest(1), victim=digest(0))


def test_a_copy_that_fails_leaves_the_adapter_in_host_memory() -> None:
    residency = staged(empty(), 0).take_slot(digest(0), victim=None)
    with pytest.raises(PreconditionFailed, match="activated"):
        residency.evict(digest(0))
    failed = residency.fail_slot(digest(0))
    assert failed.residents[digest(0)].tier is Tier.HOST
    assert failed.slots_used == 0


def test_a_loading_adapter_holds_its_room_but_is_not_resident_yet() -> None:
    residency = empty().reserve(digest(0), 100)
    assert not residency.in_host(digest(0))
    assert not residency.plan_room(1).fits
    for change in (residency.evict, lambda d: residency.with_pin(d, TENANT, pinned=True)):
        with pytest.raises(NotFound):
            change(digest(0))
    assert residency.abandon(digest(0)).plan_room(100).fits


@given(st.lists(st.integers(1, 60), max_size=12), st.integers(1, 100))
def test_a_plan_never_displaces_anybody_in_vain(sizes: list[int], need: int) -> None:
    residency = empty()
    for number, size in enumerate(sizes):
        room = residency.plan_room(size)
        for victim in room.victims:
            residency = residency.evict(victim)
        residency = staged(residency, number, size=size)
    room = residency.plan_room(need)
    assert room.fits
    for spared in room.victims:
        others = residency
        for victim in room.victims:
            if victim != spared:
                others = others.evict(victim)
        assert not others._fits(len(others.residents) + 1, others.used_bytes + need)


class Engine(RuleBasedStateMachine):
    """Any order of loads, failures, requests, slots, pins and evictions keeps the promises."""

    def __init__(self) -> None:
        super().__init__()
        self.residency = empty()
        self.claims: dict[Digest, int] = {}
        self.running: dict[Digest, int] = {}
        self.now = 0.0

    def those(self, *states: State) -> list[Digest]:
        return [d for d, r in self.residency.residents.items() if r.state in states]

    @rule(number=st.integers(0, 9), size=st.integers(1, 60), succeeds=st.booleans(), claims=st.integers(0, 2))
    def load(self, number: int, size: int, succeeds: bool, claims: int) -> None:
        name = digest(number)
        room = self.residency.plan_room(size)
        if self.residency.get(name) is not None or not room.fits:
            return
        for victim in room.victims:
            before = self.residency.residents[victim]
            assert not before.pinned
            assert before.in_flight == 0
            self.residency = self.residency.evict(victim)
            assert self.claims.pop(victim) == self.running.pop(victim) == 0
        self.residency = self.residency.reserve(name, size)
        if not succeeds:
            self.residency = self.residency.abandon(name)
            return
        self.now += 1
        self.residency = self.residency.finish_load(
            name, size_bytes=size, load_seconds=0.1, claims=claims, now=self.now
        )
        self.claims[name], self.running[name] = claims, 0

    @precondition(lambda self: self.those(State.STAGED))
    @rule(data=st.data(), succeeds=st.booleans())
    def activate(self, data: st.DataObject, succeeds: bool) -> None:
        name = data.draw(st.sampled_from(self.those(State.STAGED)))
        idle = [d for d in self.those(State.READY) if not self.running[d]]
        full = self.residency.slots_used == CAPACITY.slots
        if full and not idle:
            return
        victim = data.draw(st.sampled_from(idle)) if full else None
        self.residency = self.residency.take_slot(name, victim=victim)
        changed = self.residency.finish_slot(name, now=self.now) if succeeds else None
        self.residency = changed or self.residency.fail_slot(name)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.claims)))
        self.now += 1
        self.residency = self.residency.claim(name, now=self.now)
        self.claims[name] += 1

    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        able = [d for d in self.those(State.READY) if self.running[d] < self.claims[d]]
        if able:
            name = data.draw(st.sampled_from(able))
            self.residency = self.residency.begin(name)
            self.running[name] += 1

    @precondition(lambda self: any(self.running.values()))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([d for d, count in self.running.items() if count]))
        self.residency = self.residency.end(name).unclaim(name, now=self.now)
        self.running[name] -= 1
        self.claims[name] -= 1

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), pinned=st.booleans())
    def pin(self, data: st.DataObject, pinned: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.claims)))
        self.residency = self.residency.with_pin(name, TENANT, pinned=pinned)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.claims)))
        resident = self.residency.residents[name]
        if resident.pinned or resident.in_flight:
            with pytest.raises(PreconditionFailed):
                self.residency.evict(name)
        else:
            self.residency = self.residency.evict(name)
            assert self.claims.pop(name) == self.running.pop(name) == 0

    @invariant()
    def capacity_holds(self) -> None:
        residents = self.residency.residents.values()
        assert len(residents) <= CAPACITY.host
        assert sum(r.size_bytes for r in residents) == self.residency.used_bytes <= CAPACITY.host_bytes
        assert sum(r.in_slot for r in residents) == self.residency.slots_used <= CAPACITY.slots

    @invariant()
    def every_request_has_its_adapter_and_every_running_one_its_slot(self) -> None:
        assert set(self.residency.residents) == set(self.claims)
        for name, resident in self.residency.residents.items():
            assert resident.in_flight == self.claims[name]
            assert resident.running == self.running[name]
            assert not resident.running or resident.state is State.READY


TestEngine = Engine.TestCase
