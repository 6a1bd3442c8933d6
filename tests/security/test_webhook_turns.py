"""A tenant whose webhooks all hang, and who makes them active again and again, holds up no other's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

import asyncpg
import pytest
from contract.schemas import empty_schema

from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from services.gateway.adapters.webhook_queue_postgres import PostgresWebhookQueue
from services.gateway.adapters.webhooks_postgres import PostgresWebhooks
from services.gateway.core.webhooks.records import Attempt, Notice, Webhook, WebhookChange
from services.gateway.core.webhooks.retries import ACTIVE_AGAIN_SECONDS, RetryPolicy, after_turn
from services.gateway.handlers.webhooks import TENANT_TURNS, TURNS_AT_ONCE, WebhookCourier
from tests.testing.clock import ManualClock

pytestmark = pytest.mark.integration
SLOW, OTHER = TenantId("ten_slow"), TenantId("ten_other")
PATIENCE = RetryPolicy(first_delay_seconds=100, give_up_seconds=1e6)
SECRET = "whsec_c2VjcmV0"  # the tests' own


@pytest.fixture
async def pool(shared_database: str) -> AsyncIterator[asyncpg.Pool]:
    async with empty_schema(shared_database, "gateway") as made:
        yield made


async def add(pool: asyncpg.Pool, tenant_id: TenantId, count: int, *, now: float) -> list[str]:
    """Make webhooks of a tenant, and queue an event for them."""
    names = [f"whk_{tenant_id}_{number:02}" for number in range(count)]
    for name in names:
        webhook = Webhook(
            webhook_id=name,
            tenant_id=tenant_id,
            url="https://example.com",
            event_types=(),
            description="",
            state="active",
            reason=None,
            created_at=now,
            failing_since=None,
        )
        await PostgresWebhooks(pool).add(webhook, SECRET, at_most=count)
    notice = Notice(event_id=f"evt_{tenant_id}", event_type="alias.moved", time=now, body=b"{}")
    await PostgresWebhookQueue(pool).add(tenant_id, notice, now=now)
    return names


class Sender:
    """Never hears of the slow tenant's receivers."""

    def __init__(self) -> None:
        self.sent: list[TenantId] = []
        self.delivered = asyncio.Event()

    async def send(
        self, tenant_id: TenantId, _url: str, _headers: Mapping[str, str], _body: bytes
    ) -> Attempt:
        self.sent.append(tenant_id)
        if tenant_id == SLOW:
            await asyncio.get_running_loop().create_future()
        self.delivered.set()
        return Attempt(at=0, seconds=0, status=200, problem=None)


async def test_a_tenant_whose_webhooks_hang_leaves_turns_to_others(pool):
    clock, sender = SystemClock(), Sender()
    await add(pool, SLOW, TURNS_AT_ONCE + 4, now=clock.now() - 10)
    await add(pool, OTHER, 1, now=clock.now())
    courier = WebhookCourier(
        PostgresWebhookQueue(pool), sender, clock, asyncio.Event(), retry=PATIENCE, lease_seconds=60
    )
    running = asyncio.create_task(courier.run())
    try:
        await asyncio.wait_for(sender.delivered.wait(), 30)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert sender.sent.count(SLOW) == TENANT_TURNS


async def test_a_failing_webhook_that_is_made_active_is_tried_again_once_in_a_while(pool):
    clock = ManualClock()
    webhooks, queue = PostgresWebhooks(pool), PostgresWebhookQueue(pool)
    (name,) = await add(pool, SLOW, 1, now=clock.now())

    async def fail() -> bool:
        turn = await queue.take(now=clock.now(), lease_seconds=60, limit=8)
        if turn is None:
            return False
        attempt = Attempt(at=clock.now(), seconds=0, status=None, problem="no answer")
        health = after_turn((attempt,), failures=turn.failures, failing_since=None, retry=PATIENCE, jitter=0)
        await queue.close(name, [], health)
        return True

    assert await fail()
    tries = 0
    for _ in range(10 * int(ACTIVE_AGAIN_SECONDS)):
        await webhooks.change(SLOW, name, WebhookChange(state="active"), now=clock.now())
        tries += await fail()
        await clock.advance(1)
    assert 8 <= tries <= 10
