"""How many requests of each tenant are in hand at a time: all tenants share the connections there are."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mint_common.errors import Overloaded
from mint_common.ids import TenantId

RETRY_AFTER_SECONDS = 1


@dataclass(slots=True, kw_only=True)
class OpenCount:
    """Counts by tenant, at most ``most`` of each. ``what`` is told to who has as many."""

    what: str
    most: int
    _open: Counter[TenantId] = field(default_factory=Counter)

    @contextmanager
    def counted(self, tenant_id: TenantId) -> Iterator[None]:
        """Count one in, and out in the end. Raises Overloaded."""
        if self._open[tenant_id] >= self.most:
            depth = self._open[tenant_id]
            raise Overloaded(what=self.what, depth=depth, retry_after_seconds=RETRY_AFTER_SECONDS)
        self._open[tenant_id] += 1
        try:
            yield
        finally:
            self._open[tenant_id] -= 1
            if not self._open[tenant_id]:
                del self._open[tenant_id]
