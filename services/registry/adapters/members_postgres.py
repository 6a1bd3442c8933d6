"""Members of the fleet in Postgres. Times are the database's, so that all registries agree."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import asyncpg

from mint_common.events import MemberChanged
from mint_common.events.member import NO_TENANT
from mint_common.ids import new_id
from mint_common.members import (
    FORGET_SECONDS,
    LEASE_SECONDS,
    Beat,
    Member,
    MemberKind,
    MemberReplaced,
    MemberState,
)
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres import from_row

# The beat of a member that has not changed, which is nearly every one: one statement and no event.
_RENEW = """
    UPDATE members SET seen_at = now()
    WHERE kind = $1 AND member_id = $2 AND epoch = $3 AND url = $4 AND base = $5 AND state = $6
        AND NOT is_silent
    RETURNING epoch
"""
# A row of another process is replaced by a later start at any time, and by an earlier one once it is silent.
_BEAT = """
    INSERT INTO members AS known (kind, member_id, epoch, started_at, url, base, state)
    VALUES ($1, $2, $3, $7, $4, $5, $6)
    ON CONFLICT (kind, member_id) DO UPDATE SET epoch = excluded.epoch, started_at = excluded.started_at,
        url = excluded.url, base = excluded.base, state = excluded.state, seen_at = now(), is_silent = false
    WHERE known.epoch = excluded.epoch OR known.started_at < excluded.started_at
        OR known.seen_at < now() - make_interval(secs => $8)
    RETURNING epoch
"""
_LEAVE = """
    DELETE FROM members WHERE kind = $1 AND member_id = $2 AND epoch = $3
    RETURNING kind, member_id, epoch, url, base
"""
_ANY_SILENT = """
    SELECT EXISTS (SELECT FROM members WHERE NOT is_silent AND seen_at < now() - make_interval(secs => $1))
"""
_SILENT = """
    UPDATE members SET is_silent = true WHERE NOT is_silent AND seen_at < now() - make_interval(secs => $1)
    RETURNING kind, member_id, epoch, url, base
"""
_FORGET = "DELETE FROM members WHERE seen_at < now() - make_interval(secs => $1)"
_LIST = """
    SELECT kind, member_id, epoch, url, base, state,
        extract(epoch FROM now() - seen_at)::float8 AS silent_seconds
    FROM members WHERE seen_at >= now() - make_interval(secs => $1) ORDER BY kind, base, member_id
"""


class PostgresMembers:
    """The members' rows; each change of one is committed with its event."""

    def __init__(self, pool: asyncpg.Pool, ledger: PostgresLedger) -> None:
        self._pool = pool
        self._ledger = ledger

    async def beat(self, beat: Beat) -> None:
        """Renew a member's row. Raises MemberReplaced when a process that started later has its name."""
        values = (beat.kind, beat.member_id, beat.epoch, beat.url, beat.base, beat.state)
        if await self._pool.fetchval(_RENEW, *values) is not None:
            return
        async with self._ledger.request(None) as change:
            row = await change.connection.fetchval(_BEAT, *values, beat.started_at, LEASE_SECONDS)
            if row is None:
                raise MemberReplaced(kind=beat.kind, name=beat.member_id)
            await change.emit(_changed(asdict(beat), beat.state))

    async def leave(self, kind: MemberKind, member_id: str, epoch: str) -> None:
        """Remove a member that ends. Idempotent; another process's row stays."""
        async with self._ledger.request(None) as change:
            row = await change.connection.fetchrow(_LEAVE, kind, member_id, epoch)
            if row is not None:
                await change.emit(_changed(dict(row), "gone"))

    async def tell_silent(self) -> None:
        """Tell, once, of members whose lease has ended."""
        if not await self._pool.fetchval(_ANY_SILENT, LEASE_SECONDS):
            return
        async with self._ledger.request(None) as change:
            for row in await change.connection.fetch(_SILENT, LEASE_SECONDS):
                await change.emit(_changed(dict(row), "silent"))

    async def members(self) -> list[Member]:
        """Return every member that has been heard of within `FORGET_SECONDS`."""
        rows = await self._pool.fetch(_LIST, FORGET_SECONDS)
        return [from_row(row, Member) for row in rows]

    async def forget(self) -> None:
        """Delete the rows of members that have been silent for longer."""
        await self._pool.execute(_FORGET, FORGET_SECONDS)


def _changed(
    row: Mapping[str, Any],  # a row, or a beat's fields
    state: MemberState | Literal["silent", "gone"],
) -> MemberChanged:
    return MemberChanged(
        tenant_id=NO_TENANT,
        base=row["base"],
        change_id=new_id("change"),
        kind=row["kind"],
        member_id=row["member_id"],
        epoch=row["epoch"],
        url=row["url"],
        state=state,
    )
