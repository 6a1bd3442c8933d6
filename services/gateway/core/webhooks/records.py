"""A tenant's webhooks and their deliveries."""

from dataclasses import dataclass
from typing import Literal

from mint_common.ids import TenantId

WebhookState = Literal["active", "paused", "disabled"]
"""An ``active`` webhook receives; deliveries to a ``paused`` one wait; a ``disabled`` one receives
nothing.
"""

DeliveryState = Literal["waiting", "delivered", "failed"]
"""A ``waiting`` delivery will be tried (again); a ``failed`` one was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A tenant's address for events; empty ``event_types`` are all.

    ``reason`` says why it was disabled. ``failing_since`` is the first failure after the last success.
    """

    webhook_id: str
    tenant_id: TenantId
    url: str
    event_types: tuple[str, ...]
    description: str
    state: WebhookState
    reason: str | None
    created_at: float
    failing_since: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookChange:
    """A change of a webhook; fields that are None stay as they are."""

    url: str | None = None
    event_types: tuple[str, ...] | None = None
    description: str | None = None
    state: Literal["active", "paused"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """A webhook's signing secrets; the previous one also signs until ``previous_until``."""

    current: str
    previous: str | None = None
    previous_until: float = 0.0

    def signing(self, *, now: float) -> tuple[str, ...]:
        """Return the secrets that sign now."""
        if self.previous is None or now >= self.previous_until:
            return (self.current,)
        return (self.current, self.previous)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt to deliver: the receiver's ``status``, the ``problem``, or both."""

    at: float
    seconds: float
    status: int | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRecord:
    """An event for a webhook. ``delivery_id`` is the same on every try, ``due_at`` when the next one is."""

    delivery_id: str
    webhook_id: str
    event_id: str
    event_type: str
    state: DeliveryState
    tries: int
    created_at: float
    due_at: float | None
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """An event as a webhook receives it: ``body`` is its envelope, ``time`` when it was queued."""

    event_id: str
    event_type: str
    time: float
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A delivery about to be tried; ``tries`` counts earlier attempts."""

    delivery_id: str
    body: bytes
    tries: int
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DueWebhook:
    """A leased webhook with its due deliveries."""

    webhook: Webhook
    secrets: Secrets
    failures: int
    deliveries: tuple[Outgoing, ...]
