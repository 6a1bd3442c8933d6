"""Memory of request bodies: a limit for the process, and a fair limit for each tenant.

Received bytes count, not an announced Content-Length. A tenant holds at most as much as remains free: a
single one gets half of the limit, several get less each, and a newcomer always finds space. Each key also has
its own limit.

Invariants: at most ``limit_bytes`` are held; after a tenant has taken bytes, at least as many are free as it
holds. No record remains of a tenant or key that holds nothing.
"""

from collections import Counter
from typing import TypeVar

from mint_common.errors import MintError
from mint_common.ids import TenantId

KEY_BYTES = 64 << 20
"""Of one key; clients of the Tinker API keep to 50 MB by themselves."""
RETRY_AFTER_SECONDS = 1

Name = TypeVar("Name", bound=str)


class BodiesFull(MintError):
    """No room for {size_bytes} more bytes of request bodies: try again in {retry_after_seconds} s."""

    code = "bodies_full"
    retryable = True
    http_status = 429


class BodyBudget:
    """Counts bytes by tenant and key."""

    def __init__(self, *, limit_bytes: int, key_bytes: int = KEY_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._key_bytes = key_bytes
        self._held_bytes = 0
        self._tenants: Counter[TenantId] = Counter()
        self._keys: Counter[str] = Counter()

    @property
    def held_bytes(self) -> int:
        """Return how much is held in all."""
        return self._held_bytes

    def check_room(self, tenant_id: TenantId, key_id: str, size_bytes: int) -> None:
        """Refuse what would not fit if it came now. Raises BodiesFull."""
        free_bytes = self._limit_bytes - self._held_bytes - size_bytes
        if (
            self._tenants[tenant_id] + size_bytes > free_bytes
            or self._keys[key_id] + size_bytes > self._key_bytes
        ):
            raise BodiesFull(size_bytes=size_bytes, retry_after_seconds=RETRY_AFTER_SECONDS)

    def hold(self, tenant_id: TenantId, key_id: str, size_bytes: int) -> None:
        """Count bytes that have arrived. Raises BodiesFull, and counts nothing then."""
        self.check_room(tenant_id, key_id, size_bytes)
        self._held_bytes += size_bytes
        self._tenants[tenant_id] += size_bytes
        self._keys[key_id] += size_bytes

    def release(self, tenant_id: TenantId, key_id: str, size_bytes: int) -> None:
        """Count bytes no more that were held."""
        self._held_bytes -= size_bytes
        _take(self._tenants, tenant_id, size_bytes)
        _take(self._keys, key_id, size_bytes)


def _take(counter: Counter[Name], name: Name, size_bytes: int) -> None:
    counter[name] -= size_bytes
    if not counter[name]:
        del counter[name]
