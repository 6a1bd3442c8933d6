"""The deliveries of webhooks in Postgres: queued once per event and webhook, taken under a lease.

Invariants: a delivery is stored before its message is acked, and leaves ``waiting`` only with an outcome; one
gateway at a time has a webhook, and any gateway can take it when the lease of a dead one expires.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict

import asyncpg

from mint_common.ids import TenantId, derive_id
from mint_common.runtime.periodic import prune_rows
from mint_common.runtime.postgres import from_row, values_of
from mint_common.runtime.postgres_errors import PostgresConnection, acquired
from services.gateway.adapters.webhooks_postgres import secrets_of
from services.gateway.core.webhooks.records import Attempt, DueWebhook, Notice, Outgoing, Webhook
from services.gateway.core.webhooks.retries import MAX_WAITING, OVERFULL, Health, Outcome

_WANTING = """
    SELECT webhook_id, state, failures FROM webhooks
    WHERE tenant_id = $1 AND state <> 'disabled' AND created_at <= $3
        AND (event_types = '{}' OR $2 = ANY (event_types))
    ORDER BY webhook_id
"""
_QUEUE = """
    INSERT INTO webhook_deliveries (delivery_id, webhook_id, event_id, event_type, body, created_at, due_at)
    SELECT $1, webhook_id, $3, $4, $5, $6, $6 FROM webhooks WHERE webhook_id = $2
    ON CONFLICT DO NOTHING RETURNING delivery_id
"""
_NOTE = "UPDATE webhooks SET due_at = least(coalesce(due_at, $2), $2) WHERE webhook_id = $1"
_WAITING = """
    SELECT count(*) FROM (
        SELECT 1 FROM webhook_deliveries WHERE webhook_id = $1 AND state = 'waiting' LIMIT $2
    ) waiting
"""
_DISABLE = "UPDATE webhooks SET state = 'disabled', reason = $2 WHERE webhook_id = $1"
_TAKE = """
    UPDATE webhooks SET not_before = $1 + $2 WHERE webhook_id = (
        SELECT webhook_id FROM webhooks WHERE state = 'active' AND due_at IS NOT NULL
            AND greatest(due_at, not_before) <= $1 AND tenant_id <> ALL ($3::text[])
        ORDER BY greatest(due_at, not_before) LIMIT 1 FOR UPDATE SKIP LOCKED
    ) RETURNING *
"""
_DUE = """
    SELECT delivery_id, body, tries, created_at FROM webhook_deliveries
    WHERE webhook_id = $1 AND state = 'waiting' AND due_at <= $2 ORDER BY due_at LIMIT $3
"""
# $2 and $3 are the fields of `Outcome`.
_RECORD = """
    UPDATE webhook_deliveries SET state = $2, due_at = $3, tries = tries + 1,
        attempts = CASE WHEN jsonb_array_length(attempts) < $5 THEN attempts ELSE attempts - 0 END || $4
    WHERE delivery_id = $1
"""
_KEPT_ATTEMPTS = 20
# A statement of its own: the next one then sees everything queued before the lock was taken.
_LOCK = "SELECT 1 FROM webhooks WHERE webhook_id = $1 FOR NO KEY UPDATE"
# From $2 on these are the fields of `Health`.
_CLOSE = """
    UPDATE webhooks SET failures = $4, failing_since = $5,
        state = CASE WHEN state = 'active' THEN $2 ELSE state END,
        reason = CASE WHEN state = 'active' THEN $3 ELSE reason END,
        not_before = $6,
        due_at = (SELECT min(due_at) FROM webhook_deliveries WHERE webhook_id = $1 AND state = 'waiting')
    WHERE webhook_id = $1
"""
_OLD = "state <> 'waiting' AND created_at < $1"


class PostgresWebhookQueue:
    """Deliveries that wait for webhooks. Durable, and shared by all gateways. Raises Unavailable."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def add(self, tenant_id: TenantId, notice: Notice, *, now: float) -> int:
        """Queue an event once for every webhook that subscribes to it; return their number. Idempotent."""
        wanting = await self._pool.fetch(_WANTING, tenant_id, notice.event_type, notice.time)
        if not wanting:
            return 0
        async with acquired(self._pool) as connection, connection.transaction():
            added = [await _queue(connection, row, notice, now) for row in wanting]
        return sum(added)

    async def take(
        self, *, now: float, lease_seconds: float, limit: int, but_of: Collection[TenantId] = ()
    ) -> DueWebhook | None:
        """Lease the webhook that has been due for longest; None if none is due.

        Tenants in ``but_of`` are skipped.
        """
        row = await self._pool.fetchrow(_TAKE, now, lease_seconds, list(but_of))
        if row is None:
            return None
        due = await self._pool.fetch(_DUE, row["webhook_id"], now, limit)
        return DueWebhook(
            webhook=from_row(row, Webhook),
            secrets=secrets_of(row),
            failures=row["failures"],
            deliveries=tuple(Outgoing(**delivery) for delivery in due),
        )

    async def close(
        self, webhook_id: str, outcomes: Sequence[tuple[str, Attempt, Outcome]], health: Health
    ) -> None:
        """Store the outcomes of a turn's deliveries by id, and release the webhook."""
        async with acquired(self._pool) as connection, connection.transaction():
            await connection.execute(_LOCK, webhook_id)
            for delivery_id, attempt, outcome in outcomes:
                told = (*values_of(outcome), [asdict(attempt)], _KEPT_ATTEMPTS)
                await connection.execute(_RECORD, delivery_id, *told)
            await connection.execute(_CLOSE, webhook_id, *values_of(health))

    async def prune(self, *, before: float) -> None:
        """Delete ended deliveries that are older than a time."""
        await prune_rows(self._pool, "webhook_deliveries", _OLD, before)


async def _queue(connection: PostgresConnection, row: asyncpg.Record, notice: Notice, now: float) -> bool:
    webhook_id = row["webhook_id"]
    if row["state"] == "paused" or row["failures"]:
        waiting = await connection.fetchval(_WAITING, webhook_id, MAX_WAITING)
        if waiting >= MAX_WAITING:
            await connection.execute(_DISABLE, webhook_id, OVERFULL)
            return False
    delivery_id = derive_id("whd", webhook_id, notice.event_id)
    added = await connection.fetchval(
        _QUEUE, delivery_id, webhook_id, notice.event_id, notice.event_type, notice.body, now
    )
    if added is None:
        return False
    await connection.execute(_NOTE, webhook_id, now)
    return True
