"""The gateway's port: the sender of webhooks."""

from collections.abc import Mapping
from typing import Protocol

from mint_common.ids import TenantId
from services.gateway.core.webhooks.records import Attempt


class WebhookSender(Protocol):
    """Sends requests to addresses that tenants chose."""

    async def send(self, tenant_id: TenantId, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        """Post a tenant's message. Never raises for errors of the receiver, its name or its address."""
        ...
