"""Webhooks: events from the bus into the queue, and from the queue to their receivers.

Invariants: a message is acked after its deliveries are stored; a delivery is tried under one id until it is
accepted or given up, through crashes of any gateway; a hanging webhook takes one slot from the others, and
one tenant's webhooks never take all slots.
"""

import asyncio
import logging
import random
from collections.abc import Sequence

import msgspec

from mint_common.bus.port import Bus, Delivery
from mint_common.errors import Unavailable
from mint_common.events import TENANTS_EVENT_TYPES
from mint_common.events.codec import Envelope
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.periodic import run_periodically
from mint_common.tenant_budget import TenantBudget
from mint_common.waiting import raise_if_cancelled, wait_for_event
from services.gateway import metrics
from services.gateway.adapters.webhook_queue_postgres import PostgresWebhookQueue
from services.gateway.adapters.webhook_sender import HttpWebhookSender
from services.gateway.core.webhooks.records import Attempt, DueWebhook, Notice, Outgoing
from services.gateway.core.webhooks.retries import (
    Health,
    Outcome,
    RetryPolicy,
    after_try,
    after_turn,
    is_success,
)
from services.gateway.core.webhooks.signature import signed_headers

DURABLE = "gateway-webhooks"
SUBJECTS = tuple(f"mint.{event_type.type}.>" for event_type in TENANTS_EVENT_TYPES)
AGAIN_SECONDS = 1.0
"""Interval of polls of the queue, for deliveries of other gateways and after outages."""
TURN_DELIVERIES = 8
"""Maximum concurrent attempts for one webhook."""
TURNS_AT_ONCE, TENANT_TURNS = 16, 4
"""Maximum webhooks served at a time, and per tenant."""
KEEP_SECONDS = 7 * 86_400.0
"""Retention of ended deliveries in the log."""
PRUNE_SECONDS = 3600.0

_log = logging.getLogger(__name__)


class TenantOf(msgspec.Struct):
    """The tenant of an event, a field of every event's data."""

    tenant_id: TenantId


class WebhookIntake:
    """Queues events for the webhooks that subscribe to them."""

    def __init__(self, bus: Bus, queue: PostgresWebhookQueue, clock: Clock, queued: asyncio.Event) -> None:
        self._bus = bus
        self._queue = queue
        self._clock = clock
        self._queued = queued

    async def run(self) -> None:
        """Queue until cancelled, through outages."""
        while True:
            try:
                async with self._bus.subscribe(durable=DURABLE, subjects=SUBJECTS, batch=64) as deliveries:
                    async for delivery in deliveries:
                        await self._take(delivery)
            except Unavailable as error:
                raise_if_cancelled()
                _log.warning("webhooks hear nothing", extra={"problem": str(error)})
                await self._clock.sleep(AGAIN_SECONDS)

    async def _take(self, delivery: Delivery) -> None:
        try:
            read = _read(delivery.message.data)
            if read is not None and await self._queue.add(*read, now=self._clock.now()):
                self._queued.set()
        except Unavailable as error:
            _log.warning("event is not queued for webhooks yet", extra={"problem": str(error)})
            await delivery.retry(delay_seconds=AGAIN_SECONDS)
        else:
            await delivery.ack()


def _read(data: bytes) -> tuple[TenantId, Notice] | None:
    """Return an event's tenant and notice; None for a message that is no event."""
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
        tenant_id = msgspec.json.decode(envelope.data, type=TenantOf).tenant_id
    except msgspec.DecodeError:
        return None
    notice = Notice(event_id=envelope.id, event_type=envelope.type, time=envelope.time, body=data)
    return tenant_id, notice


class WebhookCourier:
    """Delivers queued events: webhooks alternate, each in one batch at a time."""

    def __init__(
        self,
        queue: PostgresWebhookQueue,
        sender: HttpWebhookSender,
        clock: Clock,
        queued: asyncio.Event,
        *,
        retry: RetryPolicy,
        lease_seconds: float,
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._clock = clock
        self._queued = queued
        self._retry = retry
        self._lease_seconds = lease_seconds
        self._turns = TenantBudget(limit=TENANT_TURNS)

    async def run(self) -> None:
        """Deliver until cancelled, through outages; leases free unfinished deliveries later."""
        slots = asyncio.Semaphore(TURNS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            pruning = run_periodically(
                self._prune, name="prune deliveries", every_seconds=PRUNE_SECONDS, clock=self._clock
            )
            group.create_task(pruning)
            while True:
                await slots.acquire()
                # Cleared before the query: a delivery queued after it wakes this loop again.
                self._queued.clear()
                turn = await self._next()
                if turn is None:
                    slots.release()
                    await wait_for_event(self._queued, clock=self._clock, seconds=AGAIN_SECONDS)
                else:
                    self._turns.take(turn.webhook.tenant_id)
                    group.create_task(self._serve(turn, slots))

    async def _next(self) -> DueWebhook | None:
        now = self._clock.now()
        try:
            return await self._queue.take(
                now=now,
                lease_seconds=self._lease_seconds,
                limit=TURN_DELIVERIES,
                but_of=[TenantId(each) for each in self._turns.holders if not self._turns.fits(each)],
            )
        except Unavailable as error:
            _log.warning("webhooks wait", extra={"problem": str(error)})
            return None

    async def _serve(self, turn: DueWebhook, slots: asyncio.Semaphore) -> None:
        try:
            await self._deliver(turn)
        except Unavailable as error:
            # They are tried again after the lease, under the same ids.
            extra = {"webhook_id": turn.webhook.webhook_id, "problem": str(error)}
            _log.warning("deliveries are not noted", extra=extra)
        finally:
            self._turns.take(turn.webhook.tenant_id, -1)
            self._queued.set()  # the tenant's other webhooks may be due
            slots.release()

    async def _deliver(self, turn: DueWebhook) -> None:
        attempts = await asyncio.gather(*(self._try(turn, outgoing) for outgoing in turn.deliveries))
        outcomes = [
            (outgoing.delivery_id, attempt, self._outcome(attempt, outgoing))
            for outgoing, attempt in zip(turn.deliveries, attempts, strict=True)
        ]
        health = self._health(turn, attempts)
        await self._queue.close(turn.webhook.webhook_id, outcomes, health)
        if health.state == "disabled":
            extra = {"webhook_id": turn.webhook.webhook_id, "reason": health.reason}
            _log.warning("webhook disabled", extra=extra)

    async def _try(self, turn: DueWebhook, outgoing: Outgoing) -> Attempt:
        now = self._clock.now()
        signed = signed_headers(
            turn.secrets.signing(now=now),
            message_id=outgoing.delivery_id,
            timestamp=int(now),
            body=outgoing.body,
        )
        headers = {"content-type": "application/json", "user-agent": "MinT-Webhooks/1", **signed}
        attempt = await self._sender.send(turn.webhook.tenant_id, turn.webhook.url, headers, outgoing.body)
        metrics.WEBHOOK_TRIES.labels("delivered" if is_success(attempt) else "failed").inc()
        return attempt

    def _outcome(self, attempt: Attempt, outgoing: Outgoing) -> Outcome:
        return after_try(
            attempt,
            tries=outgoing.tries + 1,
            created_at=outgoing.created_at,
            retry=self._retry,
            jitter=random.random(),
        )

    def _health(self, turn: DueWebhook, attempts: Sequence[Attempt]) -> Health:
        return after_turn(
            tuple(attempts),
            failures=turn.failures,
            failing_since=turn.webhook.failing_since,
            retry=self._retry,
            jitter=random.random(),
        )

    async def _prune(self) -> None:
        await self._queue.prune(before=self._clock.now() - KEEP_SECONDS)
