"""Tenants' uses of adapters, over the life of the engine.

Invariants: an adapter in host memory has a tenant that uses it; a bounded number of uses of absent adapters
is remembered.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from msgspec.structs import replace

from mint_common.claims import RevisionRef
from mint_common.ids import Digest, TenantId
from services.loader.core.cold_queue import Priority
from services.loader.core.residency import State
from services.loader.core.tenant_use import TenantUse

_REMEMBERED = 4096


class TenantUses:
    """The part of every tenant in every adapter; changed between awaits only."""

    def __init__(self) -> None:
        self._uses: dict[Digest, dict[TenantId, TenantUse]] = {}
        self._ended: OrderedDict[tuple[Digest, TenantId], None] = OrderedDict()

    def get(self, digest: Digest, tenant_id: TenantId) -> TenantUse | None:
        """Return a tenant's part in an adapter."""
        return self._uses.get(digest, {}).get(tenant_id)

    def of_load(self, digest: Digest, number: int) -> Mapping[TenantId, TenantUse]:
        """Return who uses an adapter that was loaded under a number."""
        found = self._uses.get(digest, {})
        return {tenant_id: use for tenant_id, use in found.items() if use.number == number}

    def of_tenant(self, tenant_id: TenantId) -> Mapping[Digest, TenantUse]:
        """Return a tenant's part in every adapter."""
        return {digest: uses[tenant_id] for digest, uses in self._uses.items() if tenant_id in uses}

    def join(
        self, revision: RevisionRef, tenant_id: TenantId, *, number: int, size_bytes: int, now: float
    ) -> bool:
        """Give a tenant its part in a finished load; return whether it had none."""
        use = self._get(revision, tenant_id)
        if use.number == number:
            return False
        self._put(
            tenant_id,
            replace(
                use,
                revision=revision,
                number=number,
                slot_since=None,
                size_bytes=size_bytes,
                uses=0,
                last_used_at=now,
                end=State.EVICTED,
            ),
        )
        return True

    def leave(self, digest: Digest, tenant_id: TenantId) -> None:
        """Take a tenant's part in an adapter away; to it the adapter is evicted."""
        self._put(tenant_id, replace(self._uses[digest][tenant_id], number=0, end=State.EVICTED))

    def fail(self, revision: RevisionRef, tenant_id: TenantId) -> None:
        """Note that a load that a tenant waits for has failed for good."""
        self._put(tenant_id, replace(self._get(revision, tenant_id), end=State.FAILED))

    def drop(self, digest: Digest, number: int) -> list[TenantId]:
        """Note that an adapter has left the engine; return whose it was."""
        using = self.of_load(digest, number)
        for tenant_id, use in using.items():
            self._put(tenant_id, replace(use, number=0))
        return list(using)

    def use_slot(self, digest: Digest, tenant_id: TenantId, *, since: float) -> None:
        """Note that a tenant uses the slot that the adapter has."""
        use = self.get(digest, tenant_id)
        if use is not None:
            self._put(tenant_id, replace(use, slot_since=since))

    def begin(self, digest: Digest, tenant_id: TenantId, *, now: float) -> None:
        """Count one more request of a tenant that has its part."""
        use = self._uses[digest][tenant_id]
        self._put(tenant_id, replace(use, in_flight=use.in_flight + 1, uses=use.uses + 1, last_used_at=now))

    def end(self, digest: Digest, tenant_id: TenantId, *, now: float) -> None:
        """Count one request less."""
        use = self._uses[digest][tenant_id]
        self._put(tenant_id, replace(use, in_flight=use.in_flight - 1, last_used_at=now))

    @contextmanager
    def waiting(
        self, revision: RevisionRef, tenant_id: TenantId, priority: Priority, *, now: float
    ) -> Iterator[None]:
        """Count a wait of a tenant for a load or a slot."""
        use = self._get(revision, tenant_id)
        if not use.waiting:
            use = replace(use, waiting_since=now, priority=priority)
        self._put(tenant_id, replace(use, waiting=use.waiting + 1, priority=min(use.priority, priority)))
        try:
            yield
        finally:
            use = self._get(revision, tenant_id)
            self._put(tenant_id, replace(use, waiting=use.waiting - 1))

    def _get(self, revision: RevisionRef, tenant_id: TenantId) -> TenantUse:
        return self.get(revision.digest, tenant_id) or TenantUse(revision=revision)

    def _put(self, tenant_id: TenantId, use: TenantUse) -> None:
        digest = use.revision.digest
        self._uses.setdefault(digest, {})[tenant_id] = use
        self._ended.pop((digest, tenant_id), None)
        if use.number or use.waiting or use.in_flight:
            return
        if use.end is State.REGISTERED:  # nothing came of it
            self._forget(digest, tenant_id)
            return
        self._ended[digest, tenant_id] = None
        if len(self._ended) > _REMEMBERED:
            self._forget(*self._ended.popitem(last=False)[0])

    def _forget(self, digest: Digest, tenant_id: TenantId) -> None:
        del self._uses[digest][tenant_id]
        if not self._uses[digest]:
            del self._uses[digest]
