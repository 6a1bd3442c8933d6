"""Samples that wait for an engine: one queue per API key, served round robin by tenant, then by key.

A burst delays no other tenant, and no tenant can take all seats by many samples, large samples or many keys.
Seats are counted in sequences: a sample has up to 128.
"""

from collections import OrderedDict
from typing import NamedTuple

from mint_common.fair_queue import FairQueue
from mint_common.tenant_budget import TenantBudget

_KEYS_SHARE = 2
"""Share of a key: smaller than a tenant's, which leaves seats to its tenant's other keys."""
_UNBOUNDED = 1 << 30
"""Turns of a queue at a time: the budgets of seats bound what runs."""


class SampleBudgets(NamedTuple):
    """Limits of waiting and running samples, sequences and prompt bytes, per tenant or key."""

    samples: TenantBudget
    sequences: TenantBudget
    prompt_bytes: TenantBudget


class SampleQueue:
    """Request ids by tenant and key, and their seats."""

    def __init__(self, seats: int) -> None:
        self._of_tenants = TenantBudget(total=seats)
        self._of_keys = TenantBudget(total=seats, share=_KEYS_SHARE)
        self._turns: FairQueue[str] = FairQueue(seats=_UNBOUNDED)  # a tenant, as often as it has samples
        self._keys: dict[str, FairQueue[tuple[str, int]]] = {}

    @property
    def tenants(self) -> frozenset[str]:
        """Return the tenants that have samples waiting or running."""
        return frozenset(self._keys) | self._of_tenants.holders

    def push(self, tenant: str, key: str, request_id: str, seats: int) -> None:
        """Append a request to its key's queue."""
        self._turns.push(tenant, tenant)
        self._keys.setdefault(tenant, FairQueue(seats=_UNBOUNDED)).push(key, (request_id, seats))

    def pop(self) -> str | None:
        """Return the next request to run; None if nothing waits or fits.

        No request is too large: while any seat is free, a tenant that runs nothing may start one.
        """
        left_out: set[str] = set()
        while (found := self._turns.next(without=left_out)) is not None:
            request_id = self._begin(found[0])
            if request_id is not None:
                return request_id
            left_out.add(found[0])
        return None

    def remove(self, tenant: str, key: str, request_id: str, seats: int) -> bool:
        """Remove a waiting request; return False if it does not wait."""
        keys = self._keys.get(tenant)
        if keys is None or not keys.discard(key, (request_id, seats)):
            return False
        self._turns.discard(tenant, tenant)
        self._tidy(tenant)
        return True

    def finish(self, tenant: str, key: str, seats: int) -> None:
        """Release the seats of a request that ran."""
        self._of_tenants.take(tenant, -seats)
        self._of_keys.take(key, -seats)

    def _begin(self, tenant: str) -> str | None:
        """Start a tenant's next request that fits."""
        keys, left_out = self._keys[tenant], set[str]()
        while (found := keys.next(without=left_out)) is not None:
            key, (request_id, seats) = found
            if self._of_tenants.fits(tenant, seats) and self._of_keys.fits(key, seats):
                self._of_tenants.take(tenant, seats)
                self._of_keys.take(key, seats)
                for queue, turn in ((self._turns, tenant), (keys, key)):
                    queue.start(turn)
                    queue.end(turn)
                self._tidy(tenant)
                return request_id
            left_out.add(key)
        return None

    def _tidy(self, tenant: str) -> None:
        if not len(self._keys[tenant]):
            del self._keys[tenant]


class RetainedAnswers:
    """Answers retained within a limit of bytes: the tenant with the most bytes loses its oldest first."""

    def __init__(self, max_bytes: int) -> None:
        self._bytes = TenantBudget(total=max_bytes)
        self._tenants: dict[str, OrderedDict[str, int]] = {}

    def add(self, tenant: str, request_id: str, size_bytes: int) -> None:
        """Add one."""
        self._tenants.setdefault(tenant, OrderedDict())[request_id] = size_bytes
        self._bytes.take(tenant, size_bytes)

    def forget(self, tenant: str, request_id: str) -> None:
        """Remove one. Idempotent."""
        own: dict[str, int] = self._tenants.get(tenant, OrderedDict())
        self._bytes.take(tenant, -own.pop(request_id, 0))
        if not own:
            self._tenants.pop(tenant, None)

    def too_many(self) -> str | None:
        """Return the answer to drop next; None while all fit."""
        if self._bytes.held <= self._bytes.total:
            return None
        return next(iter(self._tenants[self._bytes.largest]))
