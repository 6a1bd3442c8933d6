"""The pool of a base's trainers: who is in it, who holds a policy, and that nobody else commits for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest
from contract.schemas import empty_schema
from contract.training_rig import BASE, CLAIM, A, B, done, new

from mint_common.ids import BaseName
from mint_common.runtime.clock import SystemClock
from services.trainer.adapters.operations_postgres import PostgresOperations
from services.trainer.adapters.trainer_pool_postgres import TrainerPool
from services.trainer.core.operations import Fenced, Snapshot
from services.trainer.core.pool import Holder, NotHeld, PolicyHolding
from tests.testing.older_trainer import hold_as_before

pytestmark = pytest.mark.integration

TERMINATE_LOCKS = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
async def pool(shared_database: str) -> AsyncIterator[asyncpg.Pool]:
    async with empty_schema(shared_database, "trainer") as pool:
        yield pool


@pytest.fixture
def operations(pool: asyncpg.Pool) -> PostgresOperations:
    return PostgresOperations(pool, base=BASE)


@dataclass(slots=True, kw_only=True)
class Member:
    """A trainer in the pool, and the task that keeps it there."""

    pool: TrainerPool
    holder: Holder
    joined: "asyncio.Task[None]"

    async def end(self) -> None:
        """Leave."""
        self.joined.cancel()
        await asyncio.gather(self.joined, return_exceptions=True)


def make_pool(
    pool: asyncpg.Pool, *, base: BaseName = BASE, ttl_seconds: float = 60.0, url: str = "http://one"
) -> TrainerPool:
    return TrainerPool(pool, base=base, url=url, room=2, ttl_seconds=ttl_seconds, clock=SystemClock())


async def join(pool: TrainerPool) -> Member:
    """Join, and stay until it is ended."""
    held: asyncio.Queue[Holder] = asyncio.Queue()

    async def stay() -> None:
        async with pool.joined() as holder:
            held.put_nowait(holder)
            await asyncio.Event().wait()

    task = asyncio.ensure_future(stay())
    return Member(pool=pool, holder=await asyncio.wait_for(held.get(), 30), joined=task)


@asynccontextmanager
async def two(pool: asyncpg.Pool, *, ttl_seconds: float = 60.0) -> AsyncIterator[tuple[Member, Member]]:
    members = [
        await join(make_pool(pool, url=url, ttl_seconds=ttl_seconds)) for url in ("http://one", "http://two")
    ]
    try:
        yield members[0], members[1]
    finally:
        for member in members:
            await member.end()


async def test_trainers_join_one_pool_in_order_and_leave_it(pool: asyncpg.Pool) -> None:
    async with two(pool) as (first, second):
        assert first.holder.pool == second.holder.pool
        members = await first.pool.members(second.holder)
        assert [(member.token, member.url, member.room) for member in members] == [
            (first.holder.member, "http://one", 2),
            (second.holder.member, "http://two", 2),
        ]
        assert await first.pool.others(first.holder) == {second.holder.member}
        await first.pool.remove_gone(first.holder)
        await second.pool.remove_gone(second.holder)
        assert len(await first.pool.members(first.holder)) == 2
        await first.pool.drain(first.holder)
        assert [member.is_draining for member in await second.pool.members(second.holder)] == [True, False]
        elsewhere = await join(make_pool(pool, base=BaseName("another")))
        assert await elsewhere.pool.others(elsewhere.holder) == frozenset()
        await elsewhere.end()
        await first.end()
        assert await second.pool.others(second.holder) == frozenset()
        await second.pool.renew(second.holder)
        with pytest.raises(Fenced):
            await first.pool.renew(first.holder)
    third = await join(make_pool(pool))
    assert third.holder.pool == second.holder.pool
    assert third.holder.member > second.holder.member
    await third.end()


async def test_a_policy_is_held_by_one_trainer(pool: asyncpg.Pool, operations: PostgresOperations) -> None:
    async with two(pool) as (first, second):
        assert await first.pool.holding(A) is None
        assert await operations.add(first.holder, [new(0), new(1)]) == [True, True]
        assert await first.pool.holding(A) == PolicyHolding(holder=first.holder.member)
        assert await second.pool.take(second.holder, [A]) == []
        (refusal, known) = await operations.add(second.holder, [new(2), new(1)])
        assert isinstance(refusal, NotHeld)
        assert known is False
        with pytest.raises(Fenced):
            await operations.finish(second.holder, [done(0)])
        with pytest.raises(Fenced):
            await operations.put_snapshot(second.holder, Snapshot(policy_id=A, position=0, claim=CLAIM))
        with pytest.raises(Fenced):
            await operations.count_attempts(second.holder, [(A, 0)])
        await operations.finish(first.holder, [done(0)])
        await first.pool.rest(first.holder, A)
        assert await second.pool.holding(A) == PolicyHolding(holder=first.holder.member, is_resting=True)
        assert [member.held for member in await second.pool.members(second.holder)] == [0, 0]
        assert await second.pool.take(second.holder, [A]) == []
        assert await first.pool.take(first.holder, [A]) == [A]
        assert [member.held for member in await second.pool.members(second.holder)] == [1, 0]
        await first.pool.release(first.holder, [A])
        assert await second.pool.take(second.holder, [A, B]) == [A]
        await first.pool.release(first.holder, [A])  # not its own any more
        await operations.finish(second.holder, [done(1)])


async def test_results_of_several_policies_are_committed_all_or_none(
    pool: asyncpg.Pool, operations: PostgresOperations
) -> None:
    async with two(pool) as (first, second):
        await operations.add(first.holder, [new(0)])
        await operations.add(second.holder, [new(0, policy_id=B)])
        with pytest.raises(Fenced):
            await operations.finish(first.holder, [done(0), done(0, policy_id=B)])
        assert [(one.policy_id, one.seq) for one in await operations.unfinished([A, B])] == [(A, 0), (B, 0)]
        await operations.finish(first.holder, [done(0)])
        await operations.finish(second.holder, [done(0, policy_id=B)])


async def test_what_waits_of_a_trainer_whose_process_ended_is_taken_at_once(
    pool: asyncpg.Pool, operations: PostgresOperations
) -> None:
    async with two(pool) as (first, second):
        await operations.add(first.holder, [new(0)])
        await operations.add(first.holder, [new(0, policy_id=B)])
        await operations.finish(first.holder, [done(0, policy_id=B)])
        assert await second.pool.waiting(second.holder) == []
        assert await first.pool.waiting(first.holder) == [A]
        await second.end()
        await pool.execute(TERMINATE_LOCKS)
        third = await join(make_pool(pool))
        async with asyncio.timeout(30):
            while await third.pool.others(third.holder):
                await third.pool.remove_gone(third.holder)
        assert await third.pool.waiting(third.holder) == [A]
        # Until a policy is taken, the commits of who held it count: they are all there is.
        await operations.finish(first.holder, [done(0)])
        await operations.add(first.holder, [new(1)])
        assert await third.pool.take(third.holder, [A, B]) == [A, B]
        with pytest.raises(Fenced):
            await operations.finish(first.holder, [done(1)])
        with pytest.raises(Fenced):
            await first.pool.renew(first.holder)
        assert await first.pool.take(first.holder, [A]) == []
        await operations.finish(third.holder, [done(1)])
        await third.end()


async def test_a_frozen_trainer_is_removed_when_it_has_been_silent_too_long(
    pool: asyncpg.Pool, operations: PostgresOperations
) -> None:
    async with two(pool, ttl_seconds=2.0) as (first, second):
        await operations.add(first.holder, [new(0)])
        for _ in range(3):
            await asyncio.sleep(1.0)
            await first.pool.renew(first.holder)
            await second.pool.renew(second.holder)
            await second.pool.remove_gone(second.holder)
        assert await second.pool.others(second.holder) == {first.holder.member}
        async with asyncio.timeout(30):
            while await second.pool.others(second.holder):
                await asyncio.sleep(0.2)
                await second.pool.renew(second.holder)
                await second.pool.remove_gone(second.holder)
        assert await second.pool.take(second.holder, [A]) == [A]
        with pytest.raises(Fenced):
            await first.pool.renew(first.holder)
        with pytest.raises(Fenced):
            await operations.finish(first.holder, [done(0)])


async def test_a_policy_is_taken_after_the_commits_under_way(
    pool: asyncpg.Pool, operations: PostgresOperations
) -> None:
    async with two(pool) as (first, second):
        await operations.add(first.holder, [new(0), new(1)])
        await pool.execute("DELETE FROM trainers WHERE token = $1", first.holder.member)
        async with pool.acquire() as connection, connection.transaction():
            await operations.finish_within(connection, first.holder, [done(0)])
            taking = asyncio.ensure_future(second.pool.take(second.holder, [A]))
            await asyncio.sleep(0.5)
            assert not taking.done()
        assert await asyncio.wait_for(taking, 30) == [A]
        assert [one.seq for one in await operations.executed_after(A, 0)] == [0]
        with pytest.raises(Fenced):
            await operations.finish(first.holder, [done(1)])


async def test_a_commit_behind_a_taking_is_fenced(pool: asyncpg.Pool, operations: PostgresOperations) -> None:
    async with two(pool) as (first, second):
        await operations.add(first.holder, [new(0), new(1)])
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT FROM training WHERE policy_id = $1 FOR UPDATE", A)
            member = second.holder.member
            await connection.execute("UPDATE training SET holder = $2 WHERE policy_id = $1", A, member)
            behind = [
                asyncio.ensure_future(operations.finish(first.holder, [done(0)])),
                asyncio.ensure_future(operations.add(first.holder, [new(2)])),
                asyncio.ensure_future(
                    operations.put_snapshot(first.holder, Snapshot(policy_id=A, position=0, claim=CLAIM))
                ),
            ]
            await asyncio.sleep(0.5)
            assert not any(task.done() for task in behind)
        finished, added, snapshot = await asyncio.gather(*behind, return_exceptions=True)
        assert isinstance(finished, Fenced)
        assert isinstance(snapshot, Fenced)
        assert isinstance(added, list)
        assert isinstance(added[0], NotHeld)
        assert [one.seq for one in await operations.unfinished([A])] == [0, 1]


async def test_trainers_wait_for_one_of_the_version_before_and_keep_it_out(
    pool: asyncpg.Pool, operations: PostgresOperations
) -> None:
    held: asyncio.Queue[int] = asyncio.Queue()
    older = asyncio.ensure_future(hold_as_before(pool, BASE, held=held))
    assert await asyncio.wait_for(held.get(), 30) == 1
    joining = [asyncio.ensure_future(join(make_pool(pool))) for _ in range(2)]
    await asyncio.sleep(1.0)
    assert not any(task.done() for task in joining)
    older.cancel()
    members = await asyncio.wait_for(asyncio.gather(*joining), 30)
    assert {member.holder.pool for member in members} == {2}
    spare = asyncio.ensure_future(hold_as_before(pool, BASE, held=held))
    await members[0].end()
    await asyncio.sleep(1.0)
    assert held.empty()
    last = members[1]
    await operations.add(last.holder, [new(0)])
    await last.pool.renew(last.holder)
    # Its connection breaks: the trainer of the version before takes over, and the pool is fenced.
    locks = f"{TERMINATE_LOCKS} AND mode = 'ShareLock'"
    await pool.execute(locks)
    assert await asyncio.wait_for(held.get(), 30) == 3
    with pytest.raises(Fenced):
        await last.pool.renew(last.holder)
    with pytest.raises(Fenced):
        await operations.finish(last.holder, [done(0)])
    assert await last.pool.take(last.holder, [A]) == []
    spare.cancel()
    following = await asyncio.wait_for(join(make_pool(pool)), 30)
    assert following.holder.pool == 4
    assert await following.pool.take(following.holder, [A]) == [A]
    for member in (last, following):
        await member.end()
    await asyncio.gather(older, spare, return_exceptions=True)
