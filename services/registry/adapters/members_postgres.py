"""Members of the fleet in Postgres. Times are the database's, so that all registries agree."""

import asyncpg

from mint_common.members import FORGET_SECONDS, LEASE_SECONDS, Beat, Member, MemberKind, MemberReplaced
from mint_common.runtime.postgres import from_row

# A row of another process is replaced by a later start at any time, and by an earlier one once it is silent.
_BEAT = """
    INSERT INTO members AS known (kind, member_id, epoch, started_at, url, base, state)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (kind, member_id) DO UPDATE SET epoch = excluded.epoch, started_at = excluded.started_at,
        url = excluded.url, base = excluded.base, state = excluded.state, seen_at = now()
    WHERE known.epoch = excluded.epoch OR known.started_at < excluded.started_at
        OR known.seen_at < now() - make_interval(secs => $8)
    RETURNING epoch
"""
_LEAVE = "DELETE FROM members WHERE kind = $1 AND member_id = $2 AND epoch = $3"
_FORGET = "DELETE FROM members WHERE seen_at < now() - make_interval(secs => $1)"
_LIST = """
    SELECT kind, member_id, epoch, url, base, state,
        extract(epoch FROM now() - seen_at)::float8 AS silent_seconds
    FROM members WHERE seen_at >= now() - make_interval(secs => $1) ORDER BY kind, base, member_id
"""


class PostgresMembers:
    """The members' rows."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def beat(self, beat: Beat) -> None:
        """Renew a member's row. Raises MemberReplaced when a process that started later has its name."""
        values = (beat.kind, beat.member_id, beat.epoch, beat.started_at, beat.url, beat.base, beat.state)
        if await self._pool.fetchval(_BEAT, *values, LEASE_SECONDS) is None:
            raise MemberReplaced(kind=beat.kind, name=beat.member_id)

    async def leave(self, kind: MemberKind, member_id: str, epoch: str) -> None:
        """Remove a member that ends. Idempotent; another process's row stays."""
        await self._pool.execute(_LEAVE, kind, member_id, epoch)

    async def members(self) -> list[Member]:
        """Return every member that has been heard of within `FORGET_SECONDS`."""
        rows = await self._pool.fetch(_LIST, FORGET_SECONDS)
        return [from_row(row, Member) for row in rows]

    async def forget(self) -> None:
        """Delete the rows of members that have been silent for longer."""
        await self._pool.execute(_FORGET, FORGET_SECONDS)
