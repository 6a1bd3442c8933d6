"""``/mint/v1/webhooks``: addresses of a tenant's servers that receive its events. Takes an admin key.

Each event is posted as its envelope, signed after Standard Webhooks (docs/guides/webhooks.md), at least once,
under one ``webhook-id`` on every try, until the receiver answers 2xx.
"""

import secrets
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from mint_common.examples import body_config
from mint_common.ids import new_id
from mint_common.json_types import JsonObject
from mint_common.runtime.edge_routes import include_routes
from services.gateway.core.webhooks.addresses import check_url
from services.gateway.core.webhooks.records import DeliveryRecord, DeliveryState, Webhook, WebhookChange
from services.gateway.core.webhooks.signature import SECRET_BYTES, write_secret
from services.gateway.http.edge.context import AdminCaller, LimitQuery
from services.gateway.http.edge.recording import RecordedRoute, SecretRoute, creates
from services.gateway.http.mint.context import WebhooksDep
from services.gateway.http.mint.event_types import check_event_types

_PREFIX = "/mint/v1/webhooks"
_plain = APIRouter(prefix=_PREFIX, tags=["webhooks"], route_class=RecordedRoute)
_secret = APIRouter(prefix=_PREFIX, tags=["webhooks"], route_class=SecretRoute)

TENANT_WEBHOOKS = 20
"""Maximum webhooks of a tenant: each is sent every event of its types."""
OVERLAP_SECONDS = 86_400.0
"""Time after a rotation in which the former secret still signs."""

Url = Annotated[str, Field(examples=["https://ci.example.com/hooks/mint"])]
Types = Annotated[tuple[str, ...], Field(max_length=100, examples=[["revision.published", "alias.moved"]])]
Text = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$", examples=["Starts the nightly suite."])]
WebhookId = Annotated[str, Path(pattern="^[A-Za-z0-9_]+$", max_length=100)]
DeliveryId = Annotated[str, Path(pattern="^[A-Za-z0-9_]+$", max_length=100)]
Before = Annotated[str | None, Query(pattern="^[A-Za-z0-9_]+$", max_length=100)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookBody:
    """A new webhook; without ``event_types`` it receives all events of the tenant."""

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"url": "https://ci.example.com/hooks/mint", "event_types": ["revision.published", "alias.moved"]}
    )

    url: Url
    event_types: Types = ()
    description: Text = ""


class WebhookPatch(BaseModel):
    """The fields to change; missing fields stay. ``active`` also enables a disabled webhook."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"state": "paused"}]}
    )

    url: Url | None = None
    event_types: Types | None = None
    description: Text | None = None
    state: Literal["active", "paused"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSecret:
    """The secret that signs messages; shown only once."""

    webhook_id: str
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWebhook:
    """A webhook and its secret, which is shown only once."""

    webhook: Webhook
    secret: str


@_secret.post("", status_code=201, dependencies=[creates("webhook", "webhook_id")])
async def create_webhook(body: WebhookBody, caller: AdminCaller, webhooks: WebhooksDep) -> NewWebhook:
    """Create a webhook. It receives events from now on."""
    _check(body.url, body.event_types, allow_private=webhooks.allow_private)
    webhook = Webhook(
        webhook_id=new_id("wh"),
        tenant_id=caller.tenant_id,
        url=body.url,
        event_types=tuple(sorted(set(body.event_types))),
        description=body.description,
        state="active",
        reason=None,
        created_at=webhooks.clock.now(),
        failing_since=None,
    )
    secret = write_secret(secrets.token_bytes(SECRET_BYTES))
    await webhooks.store.add(webhook, secret, at_most=TENANT_WEBHOOKS)
    return NewWebhook(webhook=webhook, secret=secret)


@_secret.post("/{webhook}/rotate")
async def rotate_secret(webhook: WebhookId, caller: AdminCaller, webhooks: WebhooksDep) -> WebhookSecret:
    """Create a new signing secret; the old one also signs for a day, so that receivers can switch."""
    secret = write_secret(secrets.token_bytes(SECRET_BYTES))
    until = webhooks.clock.now() + OVERLAP_SECONDS
    await webhooks.store.rotate(caller.tenant_id, webhook, secret, previous_until=until)
    return WebhookSecret(webhook_id=webhook, secret=secret)


@_plain.get("")
async def list_webhooks(caller: AdminCaller, webhooks: WebhooksDep) -> list[Webhook]:
    """List the tenant's webhooks, oldest first."""
    return list(await webhooks.store.list(caller.tenant_id))


@_plain.get("/{webhook}")
async def get_webhook(webhook: WebhookId, caller: AdminCaller, webhooks: WebhooksDep) -> Webhook:
    """Return one webhook."""
    return await webhooks.store.get(caller.tenant_id, webhook)


@_plain.patch("/{webhook}")
async def change_webhook(
    webhook: WebhookId, body: WebhookPatch, caller: AdminCaller, webhooks: WebhooksDep
) -> Webhook:
    """Change a webhook, pause it (its events then wait) or activate it again."""
    found = await webhooks.store.get(caller.tenant_id, webhook)
    allow_private = webhooks.allow_private
    _check(body.url or found.url, body.event_types or (), allow_private=allow_private)
    change = WebhookChange(
        url=body.url,
        event_types=None if body.event_types is None else tuple(sorted(set(body.event_types))),
        description=body.description,
        state=body.state,
    )
    return await webhooks.store.change(caller.tenant_id, webhook, change, now=webhooks.clock.now())


@_plain.delete("/{webhook}", status_code=204)
async def remove_webhook(webhook: WebhookId, caller: AdminCaller, webhooks: WebhooksDep) -> None:
    """Remove a webhook, its waiting deliveries and its log."""
    await webhooks.store.remove(caller.tenant_id, webhook)


@_plain.get("/{webhook}/deliveries")
async def list_deliveries(  # noqa: PLR0917  # FastAPI passes them by name
    webhook: WebhookId,
    caller: AdminCaller,
    webhooks: WebhooksDep,
    limit: LimitQuery = 100,
    state: DeliveryState | None = None,
    before: Before = None,
) -> list[DeliveryRecord]:
    """List deliveries with their newest attempts, newest first; ``before`` is the last id of the previous
    page.

    An ended delivery is stored for a week.
    """
    found = await webhooks.store.get(caller.tenant_id, webhook)
    page = await webhooks.store.deliveries(found.webhook_id, state=state, limit=limit, before=before)
    return list(page)


@_plain.get("/{webhook}/deliveries/{delivery}")
async def get_delivery(
    webhook: WebhookId, delivery: DeliveryId, caller: AdminCaller, webhooks: WebhooksDep
) -> DeliveryRecord:
    """Return one delivery."""
    found = await webhooks.store.get(caller.tenant_id, webhook)
    return await webhooks.store.delivery(found.webhook_id, delivery)


@_plain.post("/{webhook}/deliveries/{delivery}/replay")
async def replay_delivery(
    webhook: WebhookId, delivery: DeliveryId, caller: AdminCaller, webhooks: WebhooksDep
) -> DeliveryRecord:
    """Deliver an event again under the same id, whether it was delivered or given up."""
    found = await webhooks.store.get(caller.tenant_id, webhook)
    return await webhooks.store.replay(found.webhook_id, delivery, now=webhooks.clock.now())


def _check(url: str, event_types: tuple[str, ...], *, allow_private: bool) -> None:
    check_url(url, allow_private=allow_private)
    check_event_types("event_types", event_types)


router = APIRouter()
include_routes(router, _plain, _secret)
