"""The lease of a base: one holder, taken over at once from the dead and after a while from the frozen."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from contract.schemas import empty_schema

from mint_common.ids import BaseName
from mint_common.runtime.clock import SystemClock
from services.trainer.adapters.lease_postgres import PostgresLease
from services.trainer.core.operations import Fenced

pytestmark = pytest.mark.integration

BASE = BaseName("tiny")


@pytest.fixture
async def pool(shared_database: str) -> AsyncIterator[asyncpg.Pool]:
    async with empty_schema(shared_database, "trainer") as pool:
        yield pool


def make_lease(pool: asyncpg.Pool, *, base: BaseName = BASE, ttl_seconds: float = 60.0) -> PostgresLease:
    return PostgresLease(pool, base=base, ttl_seconds=ttl_seconds, clock=SystemClock())


async def hold(lease: PostgresLease, held: asyncio.Queue[int]) -> None:
    """Hold the lease until cancelled."""
    async with lease.held() as token:
        held.put_nowait(token)
        await asyncio.Event().wait()


async def test_one_holder_at_a_time_and_the_next_at_once(pool: asyncpg.Pool) -> None:
    held: asyncio.Queue[int] = asyncio.Queue()
    lease = make_lease(pool)
    first = asyncio.ensure_future(hold(lease, held))
    assert await asyncio.wait_for(held.get(), 30) == 1
    others = [asyncio.ensure_future(hold(make_lease(pool), held)) for _ in range(2)]
    async with make_lease(pool, base=BaseName("another")).held() as token:
        assert token == 1
    await asyncio.sleep(0.6)
    assert held.empty()
    await lease.renew(1)
    first.cancel()
    assert await asyncio.wait_for(held.get(), 30) == 2
    await asyncio.sleep(0.6)
    assert held.empty()
    with pytest.raises(Fenced):
        await lease.renew(1)
    await lease.renew(2)
    for other in others:
        other.cancel()
    await asyncio.gather(first, *others, return_exceptions=True)


async def test_a_holder_whose_connection_broke_is_followed_at_once(pool: asyncpg.Pool) -> None:
    held: asyncio.Queue[int] = asyncio.Queue()
    first = asyncio.ensure_future(hold(make_lease(pool), held))
    assert await asyncio.wait_for(held.get(), 30) == 1
    query = (
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    await pool.execute(query)
    async with asyncio.timeout(30), make_lease(pool).held() as token:
        assert token == 2
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_a_frozen_holder_is_followed_when_it_has_been_silent_too_long(pool: asyncpg.Pool) -> None:
    held: asyncio.Queue[int] = asyncio.Queue()
    frozen = make_lease(pool)
    first = asyncio.ensure_future(hold(frozen, held))
    assert await asyncio.wait_for(held.get(), 30) == 1
    next_one = make_lease(pool, ttl_seconds=3.0)
    second = asyncio.ensure_future(hold(next_one, held))
    for _ in range(4):
        await asyncio.sleep(1)
        await frozen.renew(1)
    assert held.empty()
    assert await asyncio.wait_for(held.get(), 30) == 2
    with pytest.raises(Fenced):
        await frozen.renew(1)
    await next_one.renew(2)
    for one in (first, second):
        one.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
