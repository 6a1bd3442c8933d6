"""What the gateway needs for webhooks."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from mint_common.ids import TenantId
from services.gateway.core.webhooks.records import (
    Attempt,
    DeliveryRecord,
    DeliveryState,
    DueWebhook,
    Notice,
    Webhook,
    WebhookChange,
)
from services.gateway.core.webhooks.retries import Health, Outcome


class Webhooks(Protocol):
    """The webhooks of tenants and the log of what was sent to them. Raises NotFound."""

    async def add(self, webhook: Webhook, secret: str, *, at_most: int) -> None:
        """Keep a new webhook. Raises TooManyWebhooks when its tenant has ``at_most`` already."""
        ...

    async def list(self, tenant_id: TenantId) -> Sequence[Webhook]:
        """Return a tenant's webhooks, oldest first."""
        ...

    async def get(self, tenant_id: TenantId, webhook_id: str) -> Webhook:
        """Return a tenant's webhook."""
        ...

    async def change(self, tenant_id: TenantId, webhook_id: str, change: WebhookChange) -> Webhook:
        """Change what is given; made active, its failures are forgotten."""
        ...

    async def rotate(
        self, tenant_id: TenantId, webhook_id: str, secret: str, *, previous_until: float
    ) -> None:
        """Sign with a new secret from now on, and with the old one too for a while."""
        ...

    async def remove(self, tenant_id: TenantId, webhook_id: str) -> None:
        """Remove a webhook and its log."""
        ...

    async def deliveries(
        self, webhook_id: str, *, state: DeliveryState | None, limit: int, before: str | None
    ) -> Sequence[DeliveryRecord]:
        """Return deliveries, newest first; ``before`` is the last id of the page before."""
        ...

    async def delivery(self, webhook_id: str, delivery_id: str) -> DeliveryRecord:
        """Return one delivery."""
        ...

    async def replay(self, webhook_id: str, delivery_id: str, *, now: float) -> DeliveryRecord:
        """Deliver once more under the same id, with the patience of a new delivery."""
        ...


class WebhookQueue(Protocol):
    """What is to be sent to webhooks. Durable; shared by every gateway. Raises Unavailable."""

    async def add(self, tenant_id: TenantId, notice: Notice, *, now: float) -> int:
        """Queue an event for every webhook that wants it, once each; return for how many. Idempotent."""
        ...

    async def take(self, *, now: float, lease_seconds: float, limit: int) -> DueWebhook | None:
        """Take the webhook that has been due for longest, for a lease's time at most; None: none is due."""
        ...

    async def close(
        self, webhook_id: str, outcomes: Sequence[tuple[str, Attempt, Outcome]], health: Health
    ) -> None:
        """Note what became of a turn's deliveries, by their ids, and give the webhook back."""
        ...

    async def prune(self, *, before: float) -> None:
        """Forget deliveries that ended, of before a time."""
        ...


class WebhookSender(Protocol):
    """Requests to addresses that tenants chose."""

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        """Post a message. Never raises for what the receiver, its name or its address does."""
        ...
