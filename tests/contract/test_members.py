"""Members of a fleet: a row is of the process that started last, and is forgotten after a long silence."""

from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from contract.schemas import empty_schema

from mint_common.ids import BaseName
from mint_common.members import FORGET_SECONDS, LEASE_SECONDS, Beat, MemberReplaced
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
    return PostgresMembers(pool)


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
