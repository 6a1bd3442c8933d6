"""Webhooks in Postgres, as tenants see and change them. `webhook_queue_postgres` has the deliveries."""

from collections.abc import Sequence

import asyncpg

from mint_common.errors import NotFound
from mint_common.ids import TenantId
from mint_common.quotas import check_quota
from mint_common.runtime.postgres import columns_of, found_record, from_row, insert_of, values_of
from mint_common.runtime.postgres_errors import acquired
from services.gateway.core.webhooks.records import (
    DeliveryRecord,
    DeliveryState,
    Secrets,
    Webhook,
    WebhookChange,
)
from services.gateway.core.webhooks.retries import ACTIVE_AGAIN_SECONDS

_WEBHOOK, _DELIVERY = columns_of(Webhook), columns_of(DeliveryRecord)
_LOCK_TENANT = "SELECT pg_advisory_xact_lock(hashtextextended('webhooks of ' || $1, 0))"
_COUNT = "SELECT count(*) FROM webhooks WHERE tenant_id = $1"
_ADD = insert_of("webhooks", Webhook, "secret")
# From $4 on these are the fields of `WebhookChange`. Activation resets the failures, and shortens the rest.
_CHANGE = f"""
    UPDATE webhooks SET
        url = coalesce($4, url), event_types = coalesce($5, event_types),
        description = coalesce($6, description), state = coalesce($7, state),
        reason = CASE WHEN $7 IS NULL THEN reason END,
        failing_since = CASE WHEN $7 IS DISTINCT FROM 'active' THEN failing_since END,
        failures = CASE WHEN $7 IS DISTINCT FROM 'active' THEN failures ELSE 0 END,
        not_before = CASE WHEN $7 IS DISTINCT FROM 'active' THEN not_before ELSE least(not_before, $3) END
    WHERE tenant_id = $1 AND webhook_id = $2 RETURNING {_WEBHOOK}
"""  # noqa: S608  (constants)
_ROTATE = """
    UPDATE webhooks SET previous_secret = secret, previous_until = $4, secret = $3
    WHERE tenant_id = $1 AND webhook_id = $2 RETURNING webhook_id
"""
_PAGE = f"""
    SELECT {_DELIVERY} FROM webhook_deliveries
    WHERE webhook_id = $1 AND ($2::text IS NULL OR state = $2)
        AND place < coalesce((SELECT place FROM webhook_deliveries WHERE delivery_id = $3), 1::bigint << 62)
    ORDER BY place DESC LIMIT $4
"""  # noqa: S608  (constants)
_REPLAY = f"""
    WITH again AS (
        UPDATE webhook_deliveries SET state = 'waiting', due_at = $3, created_at = $3
        WHERE webhook_id = $1 AND delivery_id = $2 RETURNING {_DELIVERY}
    ), noted AS (
        UPDATE webhooks SET due_at = least(coalesce(due_at, $3), $3), not_before = least(not_before, $4)
        WHERE webhook_id IN (SELECT webhook_id FROM again)
    )
    SELECT * FROM again
"""  # noqa: S608  (constants)


class PostgresWebhooks:
    """The webhooks of tenants and the log of their deliveries. Raises NotFound."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def count(self, tenant_id: TenantId) -> int:
        """Return the number of a tenant's webhooks."""
        return int(await self._pool.fetchval(_COUNT, tenant_id))

    async def add(self, webhook: Webhook, secret: str, *, at_most: int) -> None:
        """Store a new webhook. Raises QuotaExceeded if its tenant already has ``at_most``."""
        async with acquired(self._pool) as connection, connection.transaction():
            await connection.execute(_LOCK_TENANT, webhook.tenant_id)
            count = await connection.fetchval(_COUNT, webhook.tenant_id)
            check_quota(count, limit=at_most, what="webhooks", remedy="remove one first")
            await connection.execute(_ADD, *values_of(webhook), secret)

    async def list(self, tenant_id: TenantId) -> Sequence[Webhook]:
        """Return a tenant's webhooks, oldest first."""
        query = f"SELECT {_WEBHOOK} FROM webhooks WHERE tenant_id = $1 ORDER BY created_at, webhook_id"  # noqa: S608
        return [from_row(row, Webhook) for row in await self._pool.fetch(query, tenant_id)]

    async def get(self, tenant_id: TenantId, webhook_id: str) -> Webhook:
        """Return a tenant's webhook."""
        query = f"SELECT {_WEBHOOK} FROM webhooks WHERE tenant_id = $1 AND webhook_id = $2"  # noqa: S608
        row = await self._pool.fetchrow(query, tenant_id, webhook_id)
        return found_record(row, Webhook, kind="webhook", name=webhook_id)

    async def change(
        self, tenant_id: TenantId, webhook_id: str, change: WebhookChange, *, now: float
    ) -> Webhook:
        """Change the given fields; activation resets the failures and retries soon."""
        rested_at = now + ACTIVE_AGAIN_SECONDS
        row = await self._pool.fetchrow(_CHANGE, tenant_id, webhook_id, rested_at, *values_of(change))
        return found_record(row, Webhook, kind="webhook", name=webhook_id)

    async def rotate(
        self, tenant_id: TenantId, webhook_id: str, secret: str, *, previous_until: float
    ) -> None:
        """Set a new secret; the old one also signs for a while."""
        if await self._pool.fetchval(_ROTATE, tenant_id, webhook_id, secret, previous_until) is None:
            raise NotFound(kind="webhook", name=webhook_id)

    async def remove(self, tenant_id: TenantId, webhook_id: str) -> None:
        """Remove a webhook and its log."""
        query = "DELETE FROM webhooks WHERE tenant_id = $1 AND webhook_id = $2 RETURNING webhook_id"
        if await self._pool.fetchval(query, tenant_id, webhook_id) is None:
            raise NotFound(kind="webhook", name=webhook_id)

    async def deliveries(
        self, webhook_id: str, *, state: DeliveryState | None, limit: int, before: str | None
    ) -> Sequence[DeliveryRecord]:
        """Return deliveries, newest first; ``before`` is the last id of the page before."""
        rows = await self._pool.fetch(_PAGE, webhook_id, state, before, limit)
        return [from_row(row, DeliveryRecord) for row in rows]

    async def delivery(self, webhook_id: str, delivery_id: str) -> DeliveryRecord:
        """Return one delivery."""
        query = f"SELECT {_DELIVERY} FROM webhook_deliveries WHERE webhook_id = $1 AND delivery_id = $2"  # noqa: S608
        row = await self._pool.fetchrow(query, webhook_id, delivery_id)
        return found_record(row, DeliveryRecord, kind="delivery", name=delivery_id)

    async def replay(self, webhook_id: str, delivery_id: str, *, now: float) -> DeliveryRecord:
        """Deliver again under the same id, with retries as for a new delivery."""
        rested_at = now + ACTIVE_AGAIN_SECONDS
        row = await self._pool.fetchrow(_REPLAY, webhook_id, delivery_id, now, rested_at)
        return found_record(row, DeliveryRecord, kind="delivery", name=delivery_id)


def secrets_of(row: asyncpg.Record) -> Secrets:
    """Read the secrets of a row of webhooks."""
    return Secrets(
        current=row["secret"], previous=row["previous_secret"], previous_until=row["previous_until"]
    )
