"""The policy history port on the registry."""

from mint_common.claims import RevisionRef
from mint_common.client.registry import RegistryClient
from mint_common.ids import PolicyId, TenantId


class RegistryPolicies:
    """Asks the registry each time: a policy's newest revision is looked up once for each job."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry

    async def latest(self, tenant_id: TenantId, policy_id: PolicyId) -> RevisionRef | None:
        """Return the newest published revision."""
        return (await self._registry.get_policy(tenant_id, policy_id)).latest
