"""The queue of cold requests: warm ones keep their share of the gateway, and nobody waits for a burst."""

import asyncio
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import Overloaded
from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from mint_common.testing.clock import ManualClock, settle
from services.gateway.core.admission import MOST_RETRY_SECONDS, AdmissionQueue
from services.gateway.http.edge.admission import AdmissionGate

ANN, BEN = TenantId("ann"), TenantId("ben")


@given(
    st.floats(0.05, 1.0),
    st.lists(st.tuples(st.floats(0.0, 0.05), st.floats(0.0, 0.01)), min_size=1, max_size=60),
)
def test_beginning_cold_requests_takes_its_share_and_one_begin_at_most(
    share: float, tries: list[tuple[float, float]]
) -> None:
    line, now = AdmissionQueue(name="the line", share=share, depth=1000), 0.0
    spans: list[tuple[float, float]] = []
    for pause, seconds in tries:
        line.join(ANN)
        now += pause
        now += line.wait_seconds(now, warm=1) or 0.0
        line.begin()
        spans.append((now, now + seconds))
        now += seconds
        line.end(now, seconds=seconds)
    for first, (begin, _) in enumerate(spans):
        for last in range(first, len(spans)):
            taken = [end - start for start, end in spans[first : last + 1]]
            assert sum(taken) <= share * (spans[last][1] - begin) + max(taken) + 1e-6


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_tenants_take_turns_and_each_keeps_its_order(arrivals: list[tuple[str, bool]]) -> None:
    line = AdmissionQueue(name="the line", share=0.5, depth=1000)
    present: dict[str, list[int]] = defaultdict(list)
    for name, leaves in arrivals:
        number = line.join(TenantId(name))
        if leaves:
            line.leave(number)
        else:
            present[name].append(number)
    assert len(line) == sum(map(len, present.values()))
    while len(line):
        waiting = [name for name, numbers in present.items() if numbers]
        called = []
        for _ in waiting:
            assert line.wait_seconds(0.0, warm=0) == 0.0
            called.append(line.begin())
            assert line.wait_seconds(0.0, warm=0) is None, "one is begun at a time"
            line.end(0.0, seconds=1.0)
        assert sorted(called) == sorted(present[name].pop(0) for name in waiting)
    assert line.wait_seconds(0.0, warm=0) is None


def test_nobody_rests_while_no_warm_request_is_open() -> None:
    line = AdmissionQueue(name="the line", share=0.1, depth=10)
    line.join(ANN)
    line.join(ANN)
    line.begin()
    line.end(5.0, seconds=0.002)
    assert line.wait_seconds(5.0, warm=0) == 0.0
    assert line.wait_seconds(5.0, warm=1) == pytest.approx(0.018)


def test_a_full_line_refuses_and_keeps_nothing_of_who_left() -> None:
    line = AdmissionQueue(name="the line", share=0.1, depth=2)
    numbers = [line.join(ANN), line.join(BEN)]
    with pytest.raises(Overloaded):
        line.join(BEN)
    for number in numbers:
        line.leave(number)
    assert len(line) == 0
    line.join(BEN)


@given(st.lists(st.sampled_from("aaaaaaab"), max_size=80), st.integers(2, 40))
def test_no_tenant_has_more_places_than_it_leaves_free(arrivals: list[str], depth: int) -> None:
    line, places = AdmissionQueue(name="the line", share=0.1, depth=depth), Counter[str]()
    for name in arrivals:
        try:
            line.join(TenantId(name))
        except Overloaded:
            assert places[name] or sum(places.values()) == depth, "only a full line refuses the first"
        else:
            places[name] += 1
            assert places[name] == 1 or places[name] <= depth - sum(places.values())
    assert sum(places.values()) <= depth
    if set(places) <= {"a"}:
        line.join(BEN)  # whatever one tenant does


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 5)), min_size=1, max_size=30))
def test_who_is_sent_away_is_told_the_speed_of_the_line_within_bounds(
    begins: list[tuple[float, float]],
) -> None:
    line, now = AdmissionQueue(name="the line", share=0.1, depth=4), 0.0
    for _ in range(2):
        line.join(ANN)
    for pause, seconds in begins:
        line.begin()
        now += pause + seconds
        line.end(now, seconds=seconds)
        line.join(ANN)
        with pytest.raises(Overloaded) as refused:
            line.join(ANN)
        assert 1 <= int(refused.value.fields["retry_after_seconds"]) <= MOST_RETRY_SECONDS


def test_a_line_that_moves_fast_asks_for_a_second_and_a_slow_one_for_longer() -> None:
    told = []
    for gap in (0.001, 1.5):
        line, now = AdmissionQueue(name="the line", share=0.1, depth=10), 0.0
        for _ in range(40):
            while True:
                try:
                    line.join(ANN)
                except Overloaded as error:
                    told.append(error.fields["retry_after_seconds"])
                    break
            now += gap
            line.begin()
            line.end(now, seconds=gap)
    assert told[39] == 1
    assert told[-1] == 8, "five wait, a turn takes a second and a half"


async def test_a_warm_request_passes_while_a_burst_of_cold_ones_is_begun() -> None:
    pace = AdmissionGate(AdmissionQueue(name="the line", share=0.5, depth=100), SystemClock())
    begun: list[int] = []

    async def cold(number: int) -> None:
        await pace.admit(ANN)
        begun.append(number)

    pace.enter_warm()
    tasks = [asyncio.create_task(cold(number)) for number in range(20)]
    seen = [0]
    while len(begun) < 20:
        await asyncio.sleep(0)
        seen.append(len(begun))
    pace.leave_warm()
    await asyncio.gather(*tasks)
    assert begun == list(range(20))
    assert max(after - before for before, after in pairwise(seen)) == 1, "the loop came round between them"


async def test_who_is_cancelled_in_the_line_holds_nobody_up() -> None:
    pace = AdmissionGate(AdmissionQueue(name="the line", share=0.01, depth=100), SystemClock())
    pace.enter_warm()
    tasks = [asyncio.create_task(pace.admit(ANN)) for _ in range(4)]
    await asyncio.sleep(0)
    for task in tasks[:3]:
        task.cancel()
    pace.leave_warm()
    async with asyncio.timeout(30):
        await tasks[3]
    assert [task.cancelled() for task in tasks[1:3]] == [True, True]


async def test_the_next_request_of_a_client_is_made_way_for_between_two_of_them() -> None:
    clock = ManualClock()
    pace = AdmissionGate(AdmissionQueue(name="the line", share=1e-6, depth=10), clock, warm_seconds=5)
    pace.enter_warm()
    pace.leave_warm()
    await pace.admit(ANN)
    await asyncio.sleep(0)  # its step ends, and has taken some time
    waiting = asyncio.create_task(pace.admit(ANN))
    await settle()
    assert not waiting.done()
    await clock.advance(6)
    last = asyncio.create_task(pace.admit(ANN))
    await settle()
    assert waiting.done()
    last.cancel()
