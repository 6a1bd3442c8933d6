"""Turns on the event loop: nobody waits for all that another tenant has sent, and warm requests go first."""

import asyncio
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mint_common.errors import Overloaded
from mint_common.runtime.fair_gate import LoopGate
from mint_common.tenant_budget import TenantBudget
from tests.testing.clock import ManualClock, settle

COMES, ENDS, LEAVES = "comes", "ends", "leaves"


class Takers:
    """Tasks that take turns and hold them until they are told to end; they note the order of their begins."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.waiting: dict[tuple[str, int], asyncio.Task[None]] = {}
        self.came_at: dict[tuple[str, int], int] = {}
        self._turns = LoopGate()
        self._ends = asyncio.Semaphore(0)
        self._count = 0

    async def come(self, tenant: str) -> None:
        """Let one more wait for a turn."""
        self._count += 1
        who = tenant, self._count
        if not any(name == tenant for name, _ in self.waiting):
            self.came_at[who] = len(self.begun)
        self.waiting[who] = asyncio.create_task(self._take(who))
        await asyncio.sleep(0)

    async def end(self) -> None:
        """End the turn that is taken; the next one begins."""
        self._ends.release()
        for _ in range(5):
            await asyncio.sleep(0)

    async def leave(self) -> None:
        """Cancel who came last and still waits."""
        who, task = self.waiting.popitem()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert who not in self.begun

    async def _take(self, who: tuple[str, int]) -> None:
        async with self._turns.turn(who[0]):
            self.begun.append(who)
            self.waiting.pop(who)
            await self._ends.acquire()


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from((COMES, COMES, ENDS, LEAVES)), st.sampled_from("aaabc")), max_size=80)
)
def test_who_comes_waits_for_two_of_each_other_tenant_at_the_most(happens: list[tuple[str, str]]) -> None:
    async def play() -> Takers:
        takers = Takers()
        for what, tenant in happens:
            if what == COMES:
                await takers.come(tenant)
            elif what == LEAVES and takers.waiting:
                await takers.leave()
            elif what == ENDS and takers.begun:
                await takers.end()
        while takers.waiting:
            await takers.end()
        await takers.end()
        return takers

    takers = asyncio.run(play())
    for who in takers.came_at.keys() & set(takers.begun):
        between = takers.begun[takers.came_at[who] : takers.begun.index(who)]
        assert all(count <= 2 for count in Counter(name for name, _ in between if name != who[0]).values())
    for tenant in "abc":
        own = [number for name, number in takers.begun if name == tenant]
        assert own == sorted(own), "each tenant's in the order of their coming"


async def test_a_tenant_alone_takes_turns_without_a_pause() -> None:
    takers = Takers()
    for _ in range(5):
        await takers.come("a")
        await takers.end()
    assert len(takers.begun) == 5


async def test_between_two_turns_the_loop_takes_in_who_has_come() -> None:
    turns, order = LoopGate(), []

    async def take(tenant: str) -> None:
        async with turns.turn(tenant):
            pass
        order.append(tenant)

    flood = [asyncio.create_task(take("a")) for _ in range(100)]
    while len(order) < 5:
        await asyncio.sleep(0)
    await take("b")
    assert order.index("b") <= 5 + 3
    await asyncio.gather(*flood)


async def _bring(share: LoopGate, tenant: str, parts: int, brought: list[str]) -> None:
    for _ in range(parts):
        brought.append(tenant)
        await share.admit(tenant, 1024)


async def test_streams_of_a_flood_bring_little_in_each_iteration_of_the_loop() -> None:
    share, brought, most = LoopGate(free=4096), list[str](), 0
    async with asyncio.TaskGroup() as flood:
        tasks = [flood.create_task(_bring(share, "a", 50, brought)) for _ in range(10)]
        await asyncio.sleep(0)
        while not all(task.done() for task in tasks):
            before = len(brought)
            await asyncio.sleep(0)
            most = max(most, len(brought) - before)
    assert len(brought) == 500
    assert most <= 6, "four parts, one after which its stream waits, and one in its turn"


async def test_a_stream_beside_a_flood_does_not_wait_for_it() -> None:
    share, brought = LoopGate(free=4096), list[str]()
    async with asyncio.TaskGroup() as streams:
        flood = [streams.create_task(_bring(share, "a", 50, brought)) for _ in range(10)]
        await asyncio.sleep(0)
        await _bring(share, "b", 3, brought)
        assert brought.index("b") < 20, "the first part of each stream of the flood, and a few"
        assert len(brought) - brought.index("b") == 3, "little is brought without a pause"
        await _bring(share, "b", 40, brought)
        assert brought[-1] == "b"
        assert not any(task.done() for task in flood)


async def test_streams_that_are_cancelled_leave_nothing_behind() -> None:
    share, brought = LoopGate(free=4096), list[str]()
    flood = [asyncio.create_task(_bring(share, "a", 1000, brought)) for _ in range(10)]
    for _ in range(10):
        await asyncio.sleep(0)
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    before = len(brought)
    last = asyncio.create_task(_bring(share, "a", 10, brought))
    for _ in range(10):
        await asyncio.sleep(0)
    assert last.done()
    assert len(brought) == before + 10


async def test_a_warm_request_passes_while_a_burst_of_cold_ones_is_begun() -> None:
    gate, begun = LoopGate(share=0.5), list[int]()

    async def cold(number: int) -> None:
        await gate.admit("ann")
        begun.append(number)

    gate.enter_warm()
    tasks = [asyncio.create_task(cold(number)) for number in range(20)]
    seen = [0]
    while len(begun) < 20:
        await asyncio.sleep(0)
        seen.append(len(begun))
    gate.leave_warm()
    await asyncio.gather(*tasks)
    assert begun == list(range(20))
    assert max(after - before for before, after in pairwise(seen)) == 1, "the loop came round between them"


async def test_who_is_cancelled_in_the_queue_holds_nobody_up() -> None:
    gate = LoopGate(share=0.01)
    gate.enter_warm()
    tasks = [asyncio.create_task(gate.admit("ann")) for _ in range(4)]
    await asyncio.sleep(0)
    for task in tasks[:3]:
        task.cancel()
    gate.leave_warm()
    async with asyncio.timeout(30):
        await tasks[3]
    assert [task.cancelled() for task in tasks[1:3]] == [True, True]


async def test_the_next_request_of_a_client_is_made_way_for_between_two_of_them() -> None:
    clock = ManualClock()
    gate = LoopGate(share=1e-6, clock=clock, warm_seconds=5)
    gate.enter_warm()
    gate.leave_warm()
    await gate.admit("ann")
    await asyncio.sleep(0)  # its step ends, and has taken some time
    waiting = asyncio.create_task(gate.admit("ann"))
    await settle()
    assert not waiting.done()
    await clock.advance(6)
    last = asyncio.create_task(gate.admit("ann"))
    await settle()
    assert waiting.done()
    last.cancel()


async def test_a_full_queue_refuses_who_has_much_in_it_and_takes_a_newcomer() -> None:
    gate = LoopGate(callers=TenantBudget(what="the queue", total=8, share=1))
    async with gate.turn("ann"):
        tasks = [asyncio.create_task(gate.admit("ann")) for _ in range(8)]
        await asyncio.sleep(0)
        assert sum(task.done() for task in tasks) == 5, "four of the eight places are one tenant's"
        with pytest.raises(Overloaded, match="the queue is full"):
            await gate.admit("ann")
        other = asyncio.create_task(gate.admit("ben"))
        await asyncio.sleep(0)
        assert not other.done()
    await other
    await asyncio.gather(*tasks, return_exceptions=True)
    assert gate.callers.held == 0
