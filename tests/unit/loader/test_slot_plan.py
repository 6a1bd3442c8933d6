"""Who gets a slot: no more adapters than slots, nobody starves, nobody who runs is disturbed."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mint_common.ids import Digest
from services.loader.core.residency import Capacity, Residency, State
from services.loader.core.slot_plan import WaitingAdapter, next_drain_seconds, plan_slots

DRAIN = 0.5


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def staged(residency: Residency, number: int, *, claims: int = 0) -> Residency:
    return residency.reserve(digest(number), 1).finish_load(
        digest(number), size_bytes=1, load_seconds=0.1, claims=claims, now=0.0
    )


def occupied(*running: int, slots: int) -> Residency:
    """Return slots taken by adapters 0, 1, ..., with so many running requests each."""
    residency = Residency(capacity=Capacity(slots=slots, host=99, host_bytes=999))
    for number, count in enumerate(running):
        residency = staged(residency, number, claims=count).take_slot(digest(number), victim=None)
        residency = residency.finish_slot(digest(number), now=float(number))
        for _ in range(count):
            residency = residency.begin(digest(number))
    return residency


def plan(residency: Residency, *waiting: WaitingAdapter, now: float = 10.0):
    return plan_slots(residency, waiting, now=now, drain_after_seconds=DRAIN)


def wait(number: int, since: float = 10.0, *, prewarm: bool = False) -> WaitingAdapter:
    return WaitingAdapter(digest=digest(number), since=since, takes_empty_only=prewarm)


def test_an_empty_slot_goes_to_who_came_first_and_requests_before_prewarms() -> None:
    residency = staged(staged(staged(occupied(1, slots=2), 7), 8), 9)
    granted = plan(residency, wait(7, 1.0, prewarm=True), wait(8, 9.0), wait(9, 8.0)).grant
    assert granted is not None
    assert (granted.digest, granted.victim) == (digest(9), None)


def test_the_slot_of_an_idle_adapter_is_taken_and_a_running_one_is_not() -> None:
    residency = staged(occupied(1, 0, slots=2), 9)
    granted = plan(residency, wait(9)).grant
    assert granted is not None
    assert granted.victim == digest(1)
    assert plan(staged(occupied(1, 1, slots=2), 9), wait(9)).grant is None


def test_a_prewarm_never_takes_a_slot_from_anybody() -> None:
    assert plan(staged(occupied(0, 0, slots=2), 9), wait(9, 0.0, prewarm=True)).grant is None


def used(residency: Residency, number: int, times: int) -> Residency:
    for _ in range(times):
        residency = residency.claim(digest(number), now=0.0).begin(digest(number))
        residency = residency.end(digest(number)).unclaim(digest(number), now=0.0)
    return residency


def test_a_scan_takes_no_slot_that_is_used_repeatedly() -> None:
    residency = used(used(used(staged(occupied(0, 0, 0, slots=3), 9), 0, 3), 1, 3), 2, 1)
    granted = plan(residency, wait(9)).grant
    assert granted is not None
    assert granted.victim == digest(2), "it was used last, but once"


def test_who_waits_too_long_takes_an_idle_slot_that_is_used_repeatedly() -> None:
    residency = used(staged(occupied(0, 1, 1, slots=3), 9), 0, 3)
    assert plan(residency, wait(9)).grant is None
    granted = plan(residency, wait(9, 10.0 - DRAIN)).grant
    assert granted is not None
    assert granted.victim == digest(0)


def test_a_slot_is_kept_no_longer_once_others_were_used_many_times() -> None:
    residency = used(staged(occupied(0, 0, 1, slots=3), 9), 0, 3)
    residency = used(residency, 1, 60)
    granted = plan(residency, wait(9)).grant
    assert granted is not None
    assert granted.victim == digest(0)


def test_nobody_drains_while_idle_slots_make_way() -> None:
    residency = staged(staged(occupied(1, 0, 1, slots=3), 8), 9)
    assert plan(residency, wait(9, 0.0)).draining == frozenset()
    assert plan(residency, wait(8, 0.0), wait(9, 0.0)).draining == {digest(0)}


def test_who_waits_too_long_makes_the_longest_occupant_drain() -> None:
    residency = staged(occupied(3, 2, slots=2), 9)
    assert plan(residency, wait(9, 9.8)).draining == frozenset()
    assert next_drain_seconds(residency, [wait(9, 9.75)], now=10.0, drain_after_seconds=DRAIN) == 0.25
    assert plan(residency, wait(9, 9.5)).draining == {digest(0)}
    ended = residency
    for _ in range(3):
        ended = ended.end(digest(0)).unclaim(digest(0), now=10.0)
    later = plan(ended, wait(0, 9.9), wait(9, 9.5)).grant
    assert later is not None
    assert (later.digest, later.victim) == (digest(9), digest(0))


def test_no_more_drain_than_wait() -> None:
    residency = staged(staged(occupied(1, 1, 1, slots=3), 8), 9)
    assert plan(residency, wait(8, 0.0), wait(9, 0.0)).draining == {digest(0), digest(1)}


@settings(deadline=None, max_examples=40)
@given(st.randoms(use_true_random=False), st.integers(1, 3))
def test_everybody_gets_a_turn_whatever_the_traffic(  # noqa: C901  # one small simulation, read at once
    rng: Random, slots: int
) -> None:
    """Endless traffic on the occupants, requests that take up to 5 ticks: a late-comer still runs."""
    adapters = 6
    residency = Residency(capacity=Capacity(slots=slots, host=99, host_bytes=999))
    for number in range(adapters):
        residency = staged(residency, number)
    lines: dict[Digest, list[float]] = {}
    running: list[tuple[float, Digest]] = []
    draining: frozenset[Digest] = frozenset()
    longest = 0.0
    for tick in range(120):
        now = float(tick)
        for end, name in [each for each in running if each[0] <= now]:
            running.remove((end, name))
            residency = residency.end(name).unclaim(name, now=now)
        hot = digest(tick % slots)
        arrivals = [hot, digest(rng.randrange(adapters))]
        for name in arrivals:
            residency = residency.claim(name, now=now)
            lines.setdefault(name, []).append(now)
        for _ in range(2 * adapters):
            for name in list(lines):
                if residency.residents[name].state is State.READY and name not in draining:
                    for since in lines.pop(name):
                        longest = max(longest, now - since)
                        residency = residency.begin(name)
                        running.append((now + rng.randint(1, 5), name))
            waiting = [WaitingAdapter(digest=name, since=line[0]) for name, line in lines.items()]
            planned = plan_slots(residency, waiting, now=now, drain_after_seconds=DRAIN)
            draining = planned.draining
            if planned.grant is None:
                break
            grant = planned.grant
            if grant.victim is not None:
                assert residency.residents[grant.victim].running == 0
            residency = residency.take_slot(grant.digest, victim=grant.victim)
            residency = residency.finish_slot(grant.digest, now=now)
        assert residency.slots_used <= slots
    oldest = min((line[0] for line in lines.values()), default=120.0)
    assert max(longest, 119 - oldest) <= 7 * adapters
