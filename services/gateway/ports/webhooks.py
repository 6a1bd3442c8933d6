"""What the gateway needs to deliver events to webhooks."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from mint_common.ids import TenantId
from services.gateway.core.webhooks.records import Attempt, DueWebhook, Notice
from services.gateway.core.webhooks.retries import Health, Outcome


class WebhookQueue(Protocol):
    """What is to be sent to webhooks. Durable; shared by every gateway. Raises Unavailable."""

    async def add(self, tenant_id: TenantId, notice: Notice, *, now: float) -> int:
        """Queue an event for every webhook that wants it, once each; return for how many. Idempotent."""
        ...

    async def take(
        self, *, now: float, lease_seconds: float, limit: int, but_of: Collection[TenantId] = ()
    ) -> DueWebhook | None:
        """Take the webhook that has been due for longest, for a lease's time at most; None: none is due.

        Those of tenants in ``but_of`` are left.
        """
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

    async def send(self, tenant_id: TenantId, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        """Post a tenant's message. Never raises for what the receiver, its name or its address does."""
        ...
