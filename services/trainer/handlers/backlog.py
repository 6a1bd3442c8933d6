"""Bytes of each tenant's waiting operations, to refuse further ones with 429.

Invariant: an operation counts by its stored bytes from before it is stored until it is committed; so do
those that an earlier process has left.
"""

from contextlib import AbstractContextManager

from mint_common.ids import PolicyId, TenantId
from mint_common.tenant_budget import TenantBudget

TENANT_BYTES = 256 << 20
"""Maximum bytes of a tenant's waiting operations, and of all its policies' decoded ones together."""


class Backlog:
    """The bytes of a term's operations."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[PolicyId, int], int] = {}
        what = f"the training queue of the tenant, {TENANT_BYTES >> 20} MiB,"
        self._waiting = TenantBudget(what=what, limit=TENANT_BYTES)

    def admitted(self, tenant_id: TenantId, size_bytes: int) -> AbstractContextManager[None]:
        """Count an operation while it is being stored. Raises Overloaded, unless it is the only one."""
        return self._waiting.counted(tenant_id, size_bytes)

    def note(self, tenant_id: TenantId, policy_id: PolicyId, seq: int, size_bytes: int) -> None:
        """Count an operation that is stored, once."""
        if (policy_id, seq) not in self._sizes:
            self._sizes[policy_id, seq] = size_bytes
            self._waiting.take(tenant_id, size_bytes)

    def end(self, tenant_id: TenantId, policy_id: PolicyId, seq: int) -> None:
        """Count an operation no longer."""
        self._waiting.take(tenant_id, -self._sizes.pop((policy_id, seq), 0))
