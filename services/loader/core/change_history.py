"""The latest changes of each tenant's adapters on an engine, since its start."""

from collections import OrderedDict, deque
from collections.abc import Sequence

from mint_common.generation import AdapterChange
from mint_common.ids import TenantId

MAX_CHANGES = 100
"""Changes that are kept for a tenant; the oldest is dropped first."""
MAX_TENANTS = 512
"""Tenants whose changes are kept; those of the tenant that has had none for longest are dropped first."""


class ChangeHistory:
    """Invariants: bounded; no tenant's changes displace another's, up to `MAX_TENANTS` tenants."""

    def __init__(self) -> None:
        self._changes: OrderedDict[TenantId, deque[AdapterChange]] = OrderedDict()

    def note(self, tenant_id: TenantId, change: AdapterChange) -> None:
        """Keep a change."""
        self._changes.setdefault(tenant_id, deque(maxlen=MAX_CHANGES)).append(change)
        self._changes.move_to_end(tenant_id)
        if len(self._changes) > MAX_TENANTS:
            self._changes.popitem(last=False)

    def of_tenant(self, tenant_id: TenantId) -> Sequence[AdapterChange]:
        """Return a tenant's changes, the latest first."""
        return tuple(reversed(self._changes.get(tenant_id, ())))
