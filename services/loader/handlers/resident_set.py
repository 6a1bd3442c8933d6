"""The engine's adapters: the residency value, and the engine's own number of each adapter.

Invariant: every finished resident has its engine number here, and no other adapter has one.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from mint_common.claims import RevisionRef
from mint_common.generation import EvictionReason
from mint_common.ids import Digest, TenantId
from services.loader import metrics
from services.loader.core.residency import Residency, State
from services.loader.core.tenant_use import TenantUse
from services.loader.handlers.residency_log import ResidencyLog
from services.loader.handlers.tenant_uses import TenantUses
from services.loader.ports import LoadedAdapter

_REMEMBERED_ENDS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAdapter:
    """An adapter on the engine, with its revision and rank."""

    adapter: LoadedAdapter
    revision: RevisionRef
    rank: int


class ResidentSet:
    """The state that loads, slots and requests share; changed between awaits only.

    ``freed`` is set whenever an adapter may have become one that can make room.
    """

    def __init__(self, residency: Residency, log: ResidencyLog) -> None:
        self.residency = residency
        self.held: dict[Digest, HeldAdapter] = {}
        self.uses = TenantUses()
        self.generating = 0
        self.warm = 0
        self.first_tokens = 0
        self.freed = asyncio.Event()
        self._log = log
        self._ends: OrderedDict[Digest, State] = OrderedDict()

    def enter(self, digest: Digest, held: HeldAdapter) -> None:
        """Note a finished adapter."""
        self.held[digest] = held
        self._ends.pop(digest, None)
        self.freed.set()
        self.measure()

    def join(self, revision: RevisionRef, tenant_id: TenantId, *, cause: str, now: float) -> None:
        """Register a tenant's use of an adapter in host memory, and announce the adapter to it."""
        digest = revision.digest
        resident, number = self.residency.residents[digest], self.held[digest].adapter.number
        size_bytes = resident.size_bytes
        if self.uses.join(revision, tenant_id, number=number, size_bytes=size_bytes, now=now):
            self._log.loaded(
                digest,
                tenant_id=tenant_id,
                cause=cause,
                size_bytes=size_bytes,
                load_seconds=resident.load_seconds,
            )

    def leave(self, digest: Digest, tenant_id: TenantId, *, cause: str) -> None:
        """Take a tenant's part in an adapter that others use too; to the tenant the adapter is evicted."""
        self.uses.leave(digest, tenant_id)
        self._log.evicted(digest, tenant_id=tenant_id, cause=cause, reason="asked")

    def use_of(self, digest: Digest, tenant_id: TenantId) -> TenantUse | None:
        """Return a tenant's part in an adapter in host memory; None when it has none."""
        use, held = self.uses.get(digest, tenant_id), self.held.get(digest)
        return use if use and held and held.adapter.number == use.number else None

    def drop(self, digest: Digest, *, cause: str, reason: EvictionReason) -> LoadedAdapter:
        """Remove an idle adapter and announce it to its tenants; the caller unloads it.

        Raises as `Residency.evict`.
        """
        self.residency = self.residency.evict(digest)
        held = self.held.pop(digest)
        self.note_end(digest, State.EVICTED)
        for tenant_id in self.uses.drop(digest, held.adapter.number):
            self._log.evicted(digest, tenant_id=tenant_id, cause=cause, reason=reason)
        self.freed.set()
        self.measure()
        return held.adapter

    def note_end(self, digest: Digest, state: State) -> None:
        """Remember for a while how an adapter ended; names beyond a bound are forgotten."""
        self._ends[digest] = state
        self._ends.move_to_end(digest)
        if len(self._ends) > _REMEMBERED_ENDS:
            self._ends.popitem(last=False)

    def end_of(self, digest: Digest) -> State:
        """Return how an adapter that is not here ended, or that nothing is known of it."""
        return self._ends.get(digest, State.REGISTERED)

    def rows(self) -> list[metrics.LoadedRow]:
        """Return each adapter's metrics; may be called from another thread."""
        residents, held = self.residency.residents, dict(self.held)
        return [
            metrics.LoadedRow(
                digest=digest,
                in_slot=resident.in_slot,
                pinned=resident.pinned,
                rank=held[digest].rank,
            )
            for digest, resident in residents.items()
            if digest in held
        ]

    def measure(self) -> None:
        """Export the present state as metrics."""
        metrics.RESIDENTS.set(len(self.residency.residents))
        metrics.HOST_BYTES.set(self.residency.used_bytes)
        metrics.SLOTS_USED.set(self.residency.slots_used)
