"""Places of adapters, for the engine's operator and for a tenant.

Invariant: a tenant's view follows from its own use of an adapter (`core.tenant_use`), never from that
of another tenant with the same bytes.
"""

import itertools
from collections.abc import Mapping
from typing import Literal

from mint_common.generation import AdapterStatus, Place
from mint_common.ids import Digest, TenantId
from services.loader.core.cold_queue import Priority
from services.loader.core.residency import Resident, State, Tier
from services.loader.core.tenant_use import state_for
from services.loader.handlers.loads import Loads
from services.loader.handlers.resident_set import ResidentSet
from services.loader.ports import Staging

_READINESS: dict[State, Literal["registered", "prewarming", "ready"]] = {
    State.FETCHING: "prewarming",
    State.STAGED: "ready",
    State.ACTIVATING: "ready",
    State.READY: "ready",
}
_PLACES: dict[State, Place] = {State.STAGED: "host", State.ACTIVATING: "host", State.READY: "slot"}
_PRIORITIES: dict[Priority, Literal["request", "prewarm", "prefetch"]] = {
    Priority.REQUEST: "request",
    Priority.PREWARM: "prewarm",
    Priority.PREFETCH: "prefetch",
}
_TIERS = {State.STAGED: Tier.HOST, State.ACTIVATING: Tier.HOST, State.READY: Tier.SLOT}


class Statuses:
    """Reads the resident set, the queue and the disk."""

    def __init__(self, resident_set: ResidentSet, loads: Loads, staging: Staging) -> None:
        self._resident_set = resident_set
        self._loads = loads
        self._staging = staging
        self._queue = loads.queue
        self._position_of: Mapping[Digest, int] = {}

    def of(self, digest: Digest) -> AdapterStatus:
        """Return where one adapter is."""
        return self._whole(digest, self._staging.size_of(digest) or 0, self._positions().get(digest))

    def all(self, *, limit: int | None = None) -> list[AdapterStatus]:
        """Return every adapter on the engine, in the queue or on the local disk, the nearest first."""
        stored = {entry.digest: entry.size_bytes for entry in self._staging.stored()}
        positions = self._positions()
        known = dict.fromkeys((*(each.digest for each in self._nearest()), *self._loads.wanted, *stored))
        return [
            self._whole(digest, stored.get(digest, 0), positions.get(digest))
            for digest in itertools.islice(known, limit)
        ]

    def places(self, *, limit: int) -> Mapping[Digest, Place]:
        """Return the tier of every adapter that is ready, stored or waits for a load; the nearest first."""
        known = {each.digest: _PLACES.get(each.state, "stored") for each in self._nearest()}
        for digest in (*self._loads.wanted, *(entry.digest for entry in self._staging.stored())):
            known.setdefault(digest, "stored")
        return dict(itertools.islice(known.items(), limit))

    def of_tenant(self, digest: Digest, tenant_id: TenantId) -> AdapterStatus:
        """Return where one adapter is to a tenant."""
        return self._part(digest, tenant_id, self._positions().get(digest))

    def all_of_tenant(self, tenant_id: TenantId, *, limit: int | None = None) -> list[AdapterStatus]:
        """Return every adapter that a tenant has used since the engine's start, the nearest first."""
        positions = self._positions()
        digests = self._resident_set.uses.of_tenant(tenant_id)
        found = [self._part(digest, tenant_id, positions.get(digest)) for digest in digests]
        found.sort(key=lambda each: (_NEAREST.index(each.tier), -each.last_used_at, each.digest))
        return found[:limit]

    def _nearest(self) -> list[Resident]:
        residents = self._resident_set.residency.residents.values()
        return sorted(residents, key=lambda each: (each.in_slot, each.touched), reverse=True)

    def _positions(self) -> Mapping[Digest, int]:
        """Return the positions in the queue, which every poll of a request that waits asks for."""
        if self._queue is not self._loads.queue:
            self._queue = self._loads.queue
            self._position_of = {load.digest: at for at, load in enumerate(self._queue.in_order())}
        return self._position_of

    def _whole(self, digest: Digest, stored_bytes: int, position: int | None) -> AdapterStatus:
        known = self._resident_set.residency.get(digest)
        state = known.state if known else self._state_without_room(digest, position)
        resident = known or Resident(digest=digest, size_bytes=stored_bytes, state=State.FETCHING)
        return AdapterStatus(
            digest=digest,
            tier=resident.tier.value,
            readiness=_READINESS.get(state, "registered"),
            state=state.value,
            size_bytes=resident.size_bytes,
            host_bytes=resident.size_bytes if known else 0,
            slot_bytes=resident.size_bytes if resident.in_slot else 0,
            pinned=resident.pinned,
            in_flight=resident.in_flight,
            last_used_at=resident.last_used_at,
            load_seconds=resident.load_seconds,
            queue_position=position,
        )

    def _part(self, digest: Digest, tenant_id: TenantId, position: int | None) -> AdapterStatus:
        resident_set = self._resident_set
        use, held = resident_set.uses.get(digest, tenant_id), resident_set.held.get(digest)
        resident = resident_set.residency.get(digest)
        number = held.adapter.number if held else None
        state = state_for(use, resident, number=number, position=position)
        tier = _TIERS.get(state, Tier.STORED)
        size_bytes = use.size_bytes if use else 0
        is_here = tier is not Tier.STORED and resident is not None
        queued = use if state is State.QUEUED else None
        return AdapterStatus(
            digest=digest,
            tier=tier.value,
            readiness=_READINESS.get(state, "registered"),
            state=state.value,
            size_bytes=size_bytes,
            host_bytes=size_bytes if is_here else 0,
            slot_bytes=size_bytes if state in (State.ACTIVATING, State.READY) else 0,
            pinned=is_here and resident is not None and tenant_id in resident.pins,
            in_flight=use.in_flight if use else 0,
            last_used_at=use.last_used_at if use else 0.0,
            load_seconds=resident.load_seconds if is_here and resident else 0.0,
            queue_position=position if queued else None,
            queued_at=queued.waiting_since if queued else None,
            queued_for=_PRIORITIES[queued.priority] if queued else None,
        )

    def _state_without_room(self, digest: Digest, position: int | None) -> State:
        if position is not None:
            return State.QUEUED
        is_running = any(load.digest == digest for load in self._loads.queue.running)
        return State.FETCHING if is_running else self._resident_set.end_of(digest)


_NEAREST: tuple[str, ...] = (Tier.SLOT, Tier.HOST, Tier.STORED)
