"""The trainers of a base in Postgres, and which of them holds a policy.

Invariants: the pool's trainers hold the base's lease together: its row names the pool's token, and each has a
shared advisory lock on base and token, which keeps trainers of a version without pools out. A trainer's row
goes when its process has ended, which its own advisory lock shows at once, or after a long silence. A policy
is taken only if it has no holder or its holder has no row, and under a row lock that waits for every commit
of the trainer before.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress

import asyncpg

from mint_common.errors import MintError
from mint_common.ids import BaseName, PolicyId, TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.postgres import from_row
from mint_common.runtime.postgres_errors import PostgresConnection, acquired
from services.trainer.adapters.operation_statements import FENCE
from services.trainer.core.operations import Fenced
from services.trainer.core.pool import Holder, PolicyHolding, PoolMember

POLL_SECONDS = 0.2

_LEASE_KEY = "hashtextextended('mint_trainer_' || $1::text || '_' || $2::text, 0)"
_MEMBER_KEY = "hashtextextended('mint_trainer_member_' || token::text, 0)"
_LOCK = f"SELECT pg_try_advisory_lock({_LEASE_KEY})"
_SHARE = f"SELECT pg_try_advisory_lock_shared({_LEASE_KEY})"
_UNLOCK = f"SELECT pg_advisory_unlock({_LEASE_KEY})"
_UNSHARE = f"SELECT pg_advisory_unlock_shared({_LEASE_KEY})"
_STATE = """
    SELECT token, pool_token IS NOT DISTINCT FROM token AS is_pools,
        renewed_at < now() - make_interval(secs => $2) AS is_stale
    FROM leases WHERE base = $1
"""
_TAKE_LEASE = """
    INSERT INTO leases (base, token, pool_token) VALUES ($1, $2, $2)
    ON CONFLICT (base) DO UPDATE SET token = $2, pool_token = $2, renewed_at = now()
    WHERE leases.token = $2 - 1
    RETURNING token
"""
# The lock before anyone can see the row: without it a trainer counts as gone.
_JOIN = f"""
    WITH joined AS (INSERT INTO trainers (base, pool, url, room) VALUES ($1, $2, $3, $4) RETURNING token)
    SELECT token, pg_advisory_lock({_MEMBER_KEY}) FROM joined
"""  # noqa: S608  # constants
_RENEW = """
    WITH renewed AS (UPDATE trainers SET renewed_at = now() WHERE token = $3 RETURNING token)
    UPDATE leases SET renewed_at = now() FROM renewed
    WHERE base = $1 AND leases.token = $2 AND pool_token = $2
    RETURNING leases.token
"""
_REMOVE_GONE = f"""
    DELETE FROM trainers WHERE base = $1 AND token <> $3 AND (
        pool < $2 OR renewed_at < now() - make_interval(secs => $4) OR token = ANY($5::bigint[])
        OR pg_try_advisory_xact_lock({_MEMBER_KEY})
    )
"""  # noqa: S608  # constants
_OTHERS = "SELECT token FROM trainers WHERE base = $1 AND pool = $2 AND token <> $3"
_MEMBERS = """
    SELECT token, url, room, is_draining, (
        SELECT count(*) FROM training WHERE holder = trainers.token AND closed_at IS NULL AND NOT is_resting
    ) AS held
    FROM trainers WHERE base = $1 AND pool = $2 ORDER BY token
"""
_AT_WORK = """
    SELECT policy_id, holder FROM training
    WHERE holder = ANY($1::bigint[]) AND closed_at IS NULL AND NOT is_resting AND tenant_id = $2
    ORDER BY policy_id
"""
_HOLDING = """
    SELECT holder, is_resting, closed_at IS NOT NULL AS is_closed FROM training
    WHERE policy_id = $1 AND base = $2
"""
_IS_FREE = """
    (holder IS NULL OR NOT EXISTS (SELECT FROM trainers WHERE trainers.token = holder AND pool = $2))
"""
_TAKE = f"""
    WITH fence AS ({FENCE}), me AS (SELECT token FROM trainers WHERE token = $3 FOR KEY SHARE), free AS (
        SELECT policy_id FROM fence, me, training
        WHERE policy_id = ANY($4::text[]) AND base = $1 AND (holder = $3 OR {_IS_FREE})
        ORDER BY policy_id FOR UPDATE OF training
    )
    UPDATE training SET holder = $3, is_resting = false FROM free
    WHERE training.policy_id = free.policy_id RETURNING training.policy_id
"""  # noqa: S608  # constants
_REST = "UPDATE training SET is_resting = true WHERE policy_id = $1 AND holder = $2"
_RELEASE = """
    WITH held AS (SELECT policy_id FROM training WHERE policy_id = ANY($1::text[]) AND holder = $2 FOR UPDATE)
    UPDATE training SET holder = NULL, is_resting = false FROM held WHERE training.policy_id = held.policy_id
"""
_WAITING = f"""
    SELECT policy_id FROM training WHERE base = $1 AND (holder = $3 OR {_IS_FREE}) AND policy_id IN (
        SELECT policy_id FROM operations WHERE finished_at IS NULL
    )
"""  # noqa: S608  # constants


class TrainerPool:
    """The pool of a base, as one of its trainers sees it. Raises Unavailable."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        *,
        base: BaseName,
        url: str,
        room: int,
        ttl_seconds: float,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._base = base
        self._url = url
        self._room = room
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._ended: set[int] = set()

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[Holder]:
        """Join the pool, and leave it at the end; yields what commits prove the membership by.

        Waits while a trainer of a version without pools has the base's lease.
        """
        async with acquired(self._pool) as connection:
            try:
                while (pool := await self._enter(connection)) is None:
                    await self._clock.sleep(POLL_SECONDS)
                member = await connection.fetchval(_JOIN, self._base, pool, self._url, self._room)
                try:
                    yield Holder(pool=pool, member=member)
                finally:
                    self._ended.add(member)
                    with suppress(MintError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                        await connection.execute("DELETE FROM trainers WHERE token = $1", member, timeout=2.0)
            finally:
                # Its locks go with it, whatever state it is in.
                with suppress(asyncpg.InterfaceError):
                    connection.terminate()

    async def renew(self, holder: Holder) -> None:
        """Say that this process is alive. Raises Fenced when another has taken over, Unavailable."""
        if await self._pool.fetchval(_RENEW, self._base, holder.pool, holder.member) is None:
            raise Fenced(base=self._base)

    async def remove_gone(self, holder: Holder) -> None:
        """Remove the rows of trainers whose process has ended, or that were silent for too long.

        Those of this process's former terms go too.
        """
        values = self._base, holder.pool, holder.member, self._ttl_seconds, list(self._ended)
        await self._pool.execute(_REMOVE_GONE, *values)
        self._ended.clear()

    async def others(self, holder: Holder) -> frozenset[int]:
        """Return the tokens of the other trainers of the pool."""
        rows = await self._pool.fetch(_OTHERS, self._base, holder.pool, holder.member)
        return frozenset(row["token"] for row in rows)

    async def members(self, holder: Holder) -> list[PoolMember]:
        """Return the trainers of the pool in the order in which they joined."""
        rows = await self._pool.fetch(_MEMBERS, self._base, holder.pool)
        return [from_row(row, PoolMember) for row in rows]

    async def at_work(self, members: Sequence[PoolMember], tenant_id: TenantId) -> dict[PolicyId, int]:
        """Return a tenant's policies that are at work on some trainers, each with its holder's token."""
        rows = await self._pool.fetch(_AT_WORK, [member.token for member in members], tenant_id)
        return {row["policy_id"]: row["holder"] for row in rows}

    async def holding(self, policy_id: PolicyId) -> PolicyHolding | None:
        """Return who holds a policy; None: it has no session over this base."""
        row = await self._pool.fetchrow(_HOLDING, policy_id, self._base)
        return None if row is None else from_row(row, PolicyHolding)

    async def take(self, holder: Holder, policies: Collection[PolicyId]) -> list[PolicyId]:
        """Take policies that nobody holds, or that are held here, to work; return which are taken, in order.

        None is when this trainer's own row is gone.
        """
        rows = await self._pool.fetch(_TAKE, self._base, holder.pool, holder.member, list(policies))
        return sorted(row["policy_id"] for row in rows)

    async def rest(self, holder: Holder, policy_id: PolicyId) -> None:
        """Say that nothing of a policy waits here, and that its state is stored. It stays held here."""
        await self._pool.execute(_REST, policy_id, holder.member)

    async def release(self, holder: Holder, policies: Sequence[PolicyId]) -> None:
        """Let policies go: any trainer may take them."""
        await self._pool.execute(_RELEASE, list(policies), holder.member)

    async def waiting(self, holder: Holder) -> list[PolicyId]:
        """Return the policies with unfinished operations that no other trainer of the pool holds."""
        rows = await self._pool.fetch(_WAITING, self._base, holder.pool, holder.member)
        return [row["policy_id"] for row in rows]

    async def drain(self, holder: Holder) -> None:
        """Say that this trainer takes no further policies."""
        await self._pool.execute("UPDATE trainers SET is_draining = true WHERE token = $1", holder.member)

    async def _enter(self, connection: PostgresConnection) -> int | None:
        """Return the token of the pool when its lease is held here too, else None."""
        row = await connection.fetchrow(_STATE, self._base, self._ttl_seconds)
        token = 0 if row is None else int(row["token"])
        if row is not None and row["is_pools"]:
            if not await connection.fetchval(_SHARE, self._base, str(token)):
                return None
            again = await connection.fetchrow(_STATE, self._base, self._ttl_seconds)
            if again is not None and again["is_pools"] and again["token"] == token:
                return token
            await connection.execute(_UNSHARE, self._base, str(token))
            return None
        # The lock of the next token first: of several that take over, one goes on.
        is_free = row is None or row["is_stale"] or await connection.fetchval(_LOCK, self._base, str(token))
        if not is_free or not await connection.fetchval(_LOCK, self._base, str(token + 1)):
            return None
        taken: int | None = await connection.fetchval(_TAKE_LEASE, self._base, token + 1)
        if taken is not None:
            await connection.fetchval(_SHARE, self._base, str(taken))
        await connection.execute(_UNLOCK, self._base, str(token + 1))
        return taken
