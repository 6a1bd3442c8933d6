"""First answers and the audit log in Postgres."""

from collections.abc import Sequence

import asyncpg

from mint_common.bounds import DAY_SECONDS
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.periodic import prune_rows
from mint_common.runtime.postgres import from_row, values_of
from services.gateway.core.audit import AuditRow
from services.gateway.core.idempotency import (
    KEPT_SECONDS,
    LEASE_SECONDS,
    IdempotencyConflict,
    KeyedRequest,
    RequestAtWork,
    StoredAnswer,
    TakenKey,
)

# A key belongs to its content for a day: the outcome of a request without an answer is not known.
_BEGIN = """
    INSERT INTO requests (tenant_id, key, sha256, begun_at, first_at) VALUES ($1, $2, $3, $4, $4)
    ON CONFLICT (tenant_id, key) DO UPDATE SET sha256 = $3, begun_at = $4, status = NULL, answer = NULL,
        first_at = CASE WHEN requests.begun_at < $4 - $6::float8 THEN $4
            ELSE coalesce(requests.first_at, 0) END
    WHERE requests.begun_at < $4 - $6::float8
        OR (requests.status IS NULL AND requests.sha256 = $3 AND requests.begun_at < $4 - $5::float8)
    RETURNING first_at
"""
_FIND = """
    SELECT key FROM requests
    WHERE tenant_id = $1 AND sha256 = $2 AND begun_at >= $3 AND starts_with(key, $4)
    ORDER BY begun_at DESC LIMIT 1
"""
# The first three are the fields of `KeyedRequest`, here and below, and these four those of `StoredAnswer`.
_FINISH = """
    UPDATE requests SET status = $4, content_type = $5, answer = $6, streamed_sha256 = $7
    WHERE tenant_id = $1 AND key = $2 AND sha256 = $3
"""
_AT_WORK = "tenant_id = $1 AND key = $2 AND sha256 = $3 AND status IS NULL"
_KEEP = f"UPDATE requests SET begun_at = $4 WHERE {_AT_WORK}"  # noqa: S608  (a constant)
_RELEASE = f"UPDATE requests SET begun_at = begun_at - $4 WHERE {_AT_WORK}"  # noqa: S608  (a constant)
_ABANDON = f"DELETE FROM requests WHERE {_AT_WORK}"  # noqa: S608  (a constant)
_ANSWER = """
    SELECT sha256, status, content_type, answer AS body, streamed_sha256 FROM requests
    WHERE tenant_id = $1 AND key = $2
"""
_AUDIT = """
    INSERT INTO audit (tenant_id, at, key_id, actor, method, path, status, object)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


class PostgresRequests:
    """Requests that change something: their first answers, for a day, and the audit log."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def begin(self, request: KeyedRequest) -> StoredAnswer | TakenKey:
        """Take a request's key, or return the first answer of the same request.

        Raises IdempotencyConflict when the key came with other content, RequestAtWork while there is no
        answer yet; a repeat takes a key without an answer a minute after `begin` or the last `keep`.
        """
        now = self._clock.now()
        asked = (*values_of(request), now, LEASE_SECONDS, KEPT_SECONDS)
        first_at = await self._pool.fetchval(_BEGIN, *asked)
        if first_at is not None:
            return TakenKey(first_at=first_at, is_repeat=first_at < now)
        row = await self._pool.fetchrow(_ANSWER, request.tenant_id, request.key)
        if row is not None and row["sha256"] != request.sha256:
            raise IdempotencyConflict(key=request.key)
        if row is None or row["status"] is None:
            raise RequestAtWork(key=request.key)
        return from_row(row, StoredAnswer)

    async def find(self, tenant_id: TenantId, *, prefix: str, sha256: str, since: float) -> str | None:
        """Return the newest key with this prefix, of a request with this content since that time."""
        found: str | None = await self._pool.fetchval(_FIND, tenant_id, sha256, since, prefix)
        return found

    async def keep(self, request: KeyedRequest) -> None:
        """Extend the lease of the request that took the key."""
        await self._pool.execute(_KEEP, *values_of(request), self._clock.now())

    async def finish(self, request: KeyedRequest, answer: StoredAnswer) -> None:
        """Store the answer to the request that took the key, unless another request has taken it since."""
        await self._pool.execute(_FINISH, *values_of(request), *values_of(answer))

    async def release(self, request: KeyedRequest) -> None:
        """End the lease of a request without an answer: a repeat may take the key, and `find` finds it."""
        await self._pool.execute(_RELEASE, *values_of(request), LEASE_SECONDS)

    async def abandon(self, request: KeyedRequest) -> None:
        """Free a key whose request changed nothing."""
        await self._pool.execute(_ABANDON, *values_of(request))

    async def prune(self) -> None:
        """Delete answers that are older than a day."""
        await prune_rows(self._pool, "requests", "begun_at < $1", self._clock.now() - KEPT_SECONDS)

    async def prune_audit(self, *, keep_days: int) -> None:
        """Delete older rows of the audit log; with 0 days none."""
        if keep_days:
            before = self._clock.now() - keep_days * DAY_SECONDS
            await prune_rows(self._pool, "audit", "at < $1", before)

    async def log(self, tenant_id: TenantId, row: AuditRow) -> None:
        """Append to a tenant's audit log."""
        await self._pool.execute(
            _AUDIT, tenant_id, row.at, row.key_id, row.actor, row.method, row.path, row.status, row.object
        )

    async def audit(self, tenant_id: TenantId, *, limit: int, before: int | None) -> Sequence[AuditRow]:
        """Return a tenant's audit log before a row's ``place``, newest first."""
        rows = await self._pool.fetch(
            "SELECT place, at, key_id, actor, method, path, status, object FROM audit "
            "WHERE tenant_id = $1 AND place < $2 ORDER BY place DESC LIMIT $3",
            tenant_id,
            2**62 if before is None else before,
            limit,
        )
        return [AuditRow(**row) for row in rows]
