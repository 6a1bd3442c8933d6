"""Seats by tenant: no tenant takes them all, and what is cancelled gives its seat back."""

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from mint_common.ids import TenantId
from mint_common.runtime.fair_gate import FairGate
from tests.testing.clock import settle

LOUD, OTHER = TenantId("ten_loud"), TenantId("ten_other")


async def test_a_tenant_that_sends_much_waits_behind_itself_alone() -> None:
    turns, begun, ends = FairGate(2, limit=1), list[str](), asyncio.Event()

    async def work(tenant: str) -> None:
        async with turns.turn(TenantId(tenant)):
            begun.append(tenant)
            await ends.wait()

    async with asyncio.TaskGroup() as group:
        for tenant in ("a", "a", "a", "b", "c"):
            group.create_task(work(tenant))
        for _ in range(10):
            await asyncio.sleep(0)
        assert begun == ["a", "b"]
        ends.set()
    assert begun.index("c") < 4
    assert sorted(begun) == ["a", "a", "a", "b", "c"]


async def test_a_seat_that_gets_free_goes_to_who_has_the_fewest() -> None:
    turns, begun = FairGate(5, limit=4), list[str]()
    ends = {tenant: asyncio.Event() for tenant in "abc"}

    async def work(tenant: str) -> None:
        async with turns.turn(TenantId(tenant)):
            begun.append(tenant)
            await ends[tenant].wait()

    async with asyncio.TaskGroup() as group:
        working = [group.create_task(work(tenant)) for tenant in "aaaabbbbaaac"]
        await settle()
        assert begun == ["a", "a", "a", "a", "b"]
        working[0].cancel()
        await settle()
        assert begun[5:] == ["c"]
        working[-2].cancel()
        working[5].cancel()  # those that wait
        working[1].cancel()
        await settle()
        assert begun[6:] == ["b"]
        for event in ends.values():
            event.set()
    assert sorted(begun[7:]) == ["a", "a", "b"]
    assert (turns.callers.held, turns._queue.tenants) == (0, frozenset())


async def test_flood_of_one_tenant_leaves_room_for_another() -> None:
    turns, done = FairGate(4, limit=2), asyncio.Event()
    entered: list[TenantId] = []

    async def upload(tenant_id: TenantId) -> None:
        async with turns.turn(tenant_id):
            entered.append(tenant_id)
            await done.wait()

    async with asyncio.TaskGroup() as group:
        for tenant_id in [LOUD] * 50 + [OTHER] * 3:
            group.create_task(upload(tenant_id))
        await settle()
        assert entered == [LOUD, LOUD, OTHER, OTHER]
        done.set()
    assert len(entered) == 53
    assert not turns._queue.tenants, "nothing is kept of who has gone"


async def test_cancelled_upload_gives_its_turn_back() -> None:
    turns = FairGate(1, limit=1)

    async def stay() -> None:
        async with turns.turn(LOUD):
            await asyncio.Event().wait()

    tasks = [asyncio.ensure_future(stay()) for _ in range(3)]
    await settle()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(30), turns.turn(LOUD):
        assert turns.callers.held == 1


COMES, ENDS, LEAVES = "comes", "ends", "leaves"
happenings = st.lists(
    st.tuples(st.sampled_from((COMES, COMES, ENDS, LEAVES)), st.sampled_from("aaabc"), st.integers(0, 99)),
    max_size=60,
)


@settings(max_examples=200)
@given(happenings, st.integers(1, 4), st.integers(1, 3))
def test_no_seat_is_too_many_and_none_stays_empty_while_a_tenant_may_have_it(happens, seats, limit):
    async def play() -> None:
        gate = FairGate(seats, limit=limit)
        tasks, seated = dict[int, tuple[str, asyncio.Task[None]]](), dict[int, asyncio.Event]()

        async def hold(number: int, tenant: str) -> None:
            async with gate.turn(tenant):
                seated[number] = asyncio.Event()
                try:
                    await seated[number].wait()
                finally:
                    del seated[number]

        for number, (what, tenant, at) in enumerate(happens):
            if what == COMES:
                tasks[number] = tenant, asyncio.create_task(hold(number, tenant))
            elif what == ENDS and seated:
                seated[sorted(seated)[at % len(seated)]].set()
            elif what == LEAVES and tasks:
                tasks[sorted(tasks)[at % len(tasks)]][1].cancel()
            for _ in range(3):
                await asyncio.sleep(0)
            tasks = {each: found for each, found in tasks.items() if not found[1].done()}
            running = Counter(tasks[each][0] for each in seated)
            waiting = {owner for each, (owner, _) in tasks.items() if each not in seated}
            assert running.total() <= seats
            assert all(count <= limit for count in running.values())
            assert running.total() == seats or all(running[owner] == limit for owner in waiting)
            assert gate.callers.held == len(tasks)
        for _, task in tasks.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in tasks.values()), return_exceptions=True)
        assert (gate.callers.held, gate._queue.tenants) == (0, frozenset())

    asyncio.run(play())
