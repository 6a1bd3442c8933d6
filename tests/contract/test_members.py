"""Members of a fleet: a row is of the process that started last, and is forgotten after a long silence."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from contract.schemas import empty_schema

from mint_common.events import MemberChanged
from mint_common.events.codec import decode
from mint_common.ids import BaseName
from mint_common.members import FORGET_SECONDS, LEASE_SECONDS, Beat, MemberReplaced
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.ledger_postgres import PostgresLedger
from services.registry.adapters.members_postgres import PostgresMembers

pytestmark = pytest.mark.integration

FIRST = Beat(
    kind="loader",
    member_id="engine-1",
    epoch="first",
    started_at=100.0,
    url="http://10.0.0.1:8104",
    base=BaseName("tiny"),
    state="starting",
)
SECOND = replace(FIRST, epoch="second", started_at=200.0, url="http://10.0.0.2:8104")
SILENT = "UPDATE members SET seen_at = now() - make_interval(secs => $1)"


@pytest.fixture
async def pool(shared_database: str) -> AsyncIterator[asyncpg.Pool]:
    async with empty_schema(shared_database, "registry") as made:
        yield made


@pytest.fixture
def members(pool: asyncpg.Pool) -> PostgresMembers:
    return PostgresMembers(pool, PostgresLedger(pool, SystemClock()))


async def told(pool: asyncpg.Pool) -> list[tuple[str, str]]:
    """Return what `member.changed` has told, in order: epochs and states."""
    rows = await pool.fetch("SELECT data FROM mint_outbox ORDER BY id")
    events = [decode(row["data"])[1] for row in rows]
    assert all(isinstance(event, MemberChanged) for event in events)
    return [(event.epoch, event.state) for event in events if isinstance(event, MemberChanged)]


async def test_a_member_renews_its_row_and_leaves(members: PostgresMembers) -> None:
    await members.beat(FIRST)
    (found,) = await members.members()
    assert (found.member_id, found.url, found.takes_requests) == ("engine-1", FIRST.url, False)
    await members.beat(replace(FIRST, state="ready"))
    (found,) = await members.members()
    assert found.takes_requests
    await members.beat(replace(FIRST, state="draining"))
    assert not (await members.members())[0].takes_requests
    await members.leave("loader", "engine-1", "another process")
    assert len(await members.members()) == 1
    await members.leave("loader", "engine-1", "first")
    assert await members.members() == []


async def test_of_two_processes_of_one_name_the_later_has_the_row(members: PostgresMembers) -> None:
    await members.beat(FIRST)
    await members.beat(SECOND)
    with pytest.raises(MemberReplaced, match="a name of its own"):
        await members.beat(FIRST)
    assert (await members.members())[0].epoch == "second"


async def test_an_earlier_process_takes_the_row_of_a_silent_one(
    members: PostgresMembers, pool: asyncpg.Pool
) -> None:
    """Clocks of hosts differ: a host whose clock was ahead must not keep its name for ever."""
    await members.beat(SECOND)
    await pool.execute(SILENT, LEASE_SECONDS + 1)
    assert not (await members.members())[0].is_alive
    await members.beat(FIRST)
    assert (await members.members())[0].epoch == "first"


async def test_a_silent_member_stays_known_for_an_hour(members: PostgresMembers, pool: asyncpg.Pool) -> None:
    await members.beat(FIRST)
    await pool.execute(SILENT, FORGET_SECONDS - 60)
    await members.forget()
    assert [member.is_alive for member in await members.members()] == [False]
    await pool.execute(SILENT, FORGET_SECONDS + 60)
    assert await members.members() == []
    await members.forget()
    assert await pool.fetchval("SELECT count(*) FROM members") == 0


async def test_each_change_of_a_member_is_told_once(members: PostgresMembers, pool: asyncpg.Pool) -> None:
    ready = replace(FIRST, state="ready")
    for beat in (FIRST, FIRST, ready, ready, replace(ready, state="draining"), SECOND, SECOND):
        await members.beat(beat)
    with pytest.raises(MemberReplaced):
        await members.beat(FIRST)
    expected = [("first", "starting"), ("first", "ready"), ("first", "draining"), ("second", "starting")]
    assert await told(pool) == expected
    moved = replace(SECOND, url="http://10.0.0.3:8104")
    await members.beat(moved)
    assert await told(pool) == [*expected, ("second", "starting")]
    await members.leave("loader", "engine-1", "first")
    for _ in range(2):
        await members.leave("loader", "engine-1", "second")
    assert await told(pool) == [*expected, ("second", "starting"), ("second", "gone")]


async def test_the_end_of_a_lease_is_told_once_and_so_is_the_return(
    members: PostgresMembers, pool: asyncpg.Pool
) -> None:
    other = replace(SECOND, member_id="engine-2")
    await members.beat(other)
    await members.beat(FIRST)
    await members.tell_silent()
    await pool.execute(SILENT + " WHERE member_id = 'engine-1'", LEASE_SECONDS + 1)
    registries = [PostgresMembers(pool, PostgresLedger(pool, SystemClock())) for _ in range(3)]
    await asyncio.gather(*(each.tell_silent() for each in registries))
    await members.tell_silent()
    await members.beat(FIRST)
    expected = [("second", "starting"), ("first", "starting"), ("first", "silent"), ("first", "starting")]
    assert await told(pool) == expected
    assert all(each.is_alive for each in await members.members())
