"""How many bytes of each tenant's operations wait, so that the next one can be told to come again.

Invariant: an operation counts by its stored bytes from before it is stored until it is committed; so does
what an earlier process has left.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mint_common.errors import Overloaded
from mint_common.ids import PolicyId, TenantId

TENANT_BYTES = 256 << 20
"""Maximum bytes of a tenant's waiting operations, and of all its policies' decoded ones together."""


class Backlog:
    """The bytes of a term's operations."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[PolicyId, int], int] = {}
        self._sums: dict[TenantId, int] = {}

    @contextmanager
    def admitted(self, tenant_id: TenantId, size_bytes: int) -> Iterator[None]:
        """Count an operation while it is being stored. Raises Overloaded, unless it is the only one."""
        waiting = self._sums.get(tenant_id, 0)
        if waiting and waiting + size_bytes > TENANT_BYTES:
            what = f"the training queue of the tenant, {TENANT_BYTES >> 20} MiB,"
            raise Overloaded(what=what, depth=waiting, retry_after_seconds=1)
        self._add(tenant_id, size_bytes)
        try:
            yield
        finally:
            self._add(tenant_id, -size_bytes)

    def note(self, tenant_id: TenantId, policy_id: PolicyId, seq: int, size_bytes: int) -> None:
        """Count an operation that is stored, once."""
        if (policy_id, seq) not in self._sizes:
            self._sizes[policy_id, seq] = size_bytes
            self._add(tenant_id, size_bytes)

    def end(self, tenant_id: TenantId, policy_id: PolicyId, seq: int) -> None:
        """Count an operation no longer."""
        self._add(tenant_id, -self._sizes.pop((policy_id, seq), 0))

    def _add(self, tenant_id: TenantId, size_bytes: int) -> None:
        left = self._sums.pop(tenant_id, 0) + size_bytes
        if left:
            self._sums[tenant_id] = left
