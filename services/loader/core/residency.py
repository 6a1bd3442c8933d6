"""Which adapters are on the engine, in which tier, and who may leave.

Invariants: the adapters counted here, loading ones included, never exceed the capacity in number or bytes;
a pinned, in-flight or loading adapter is never a victim; at most ``slots`` adapters are in the slot tier.
Every adapter in a slot is in the host tier as well: vLLM keeps the host copy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mint_common.errors import NotFound, PreconditionFailed
from mint_common.ids import Digest


class Tier(StrEnum):
    """Where an adapter can be used from."""

    STORED = "stored"  # on a disk only
    HOST = "host"  # in host memory
    SLOT = "slot"  # in a slot of the engine as well


class Readiness(StrEnum):
    """How far an adapter is."""

    REGISTERED = "registered"  # wanted or stored, no load has begun
    PREWARMING = "prewarming"  # its load is running; the room is reserved
    READY = "ready"  # a request for it starts at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the engine has room for: adapters in slots, adapters in host memory, and bytes of those."""

    slots: int
    host: int
    host_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """One adapter on the engine. ``touched`` orders uses (a counter); ``last_used_at`` is their wall time."""

    digest: Digest
    size_bytes: int
    readiness: Readiness = Readiness.PREWARMING
    in_slot: bool = False
    pinned: bool = False
    in_flight: int = 0
    touched: int = 0
    last_used_at: float = 0.0
    load_seconds: float = 0.0

    @property
    def tier(self) -> Tier:
        """Return where it is; a load that still runs leaves it stored."""
        if self.readiness is not Readiness.READY:
            return Tier.STORED
        return Tier.SLOT if self.in_slot else Tier.HOST

    @property
    def evictable(self) -> bool:
        """Return whether it may leave now."""
        return self.readiness is Readiness.READY and not self.pinned and self.in_flight == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What making room takes: ``victims`` leave, least recently used first. ``fits`` is False when even that
    is not enough; ``hopeless`` when waiting for requests to end would not be enough either."""

    fits: bool
    victims: tuple[Digest, ...] = ()
    hopeless: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """The adapters of one engine, as a value; each change returns the next value."""

    capacity: Capacity
    residents: Mapping[Digest, Resident] = field(default_factory=dict)
    clock: int = 0

    @property
    def used_bytes(self) -> int:
        """Return the bytes of all residents, loading ones included."""
        return sum(resident.size_bytes for resident in self.residents.values())

    def get(self, digest: Digest) -> Resident | None:
        """Return a resident, loading or ready."""
        return self.residents.get(digest)

    def is_ready(self, digest: Digest) -> bool:
        """Return whether a request for it can start at once."""
        resident = self.residents.get(digest)
        return resident is not None and resident.readiness is Readiness.READY

    def plan_room(self, size_bytes: int) -> Room:
        """Decide who must leave so that one more adapter of that size fits."""
        count, used = len(self.residents), self.used_bytes
        victims: list[Digest] = []
        idle = sorted((r for r in self.residents.values() if r.evictable), key=lambda r: r.touched)
        for resident in idle:
            if self._fits(count + 1, used + size_bytes):
                break
            victims.append(resident.digest)
            count, used = count - 1, used - resident.size_bytes
        if self._fits(count + 1, used + size_bytes):
            return Room(fits=True, victims=tuple(victims))
        return Room(fits=False, hopeless=self._is_hopeless(size_bytes))

    def reserve(self, digest: Digest, size_bytes: int) -> "Residency":
        """Enter an adapter whose load begins; the caller has made room."""
        assert digest not in self.residents
        assert self._fits(len(self.residents) + 1, self.used_bytes + size_bytes)
        return self._put(Resident(digest=digest, size_bytes=size_bytes))

    def become_ready(self, digest: Digest, *, load_seconds: float, in_flight: int, now: float) -> "Residency":
        """Finish a load; ``in_flight`` requests have waited for it and hold it from this moment."""
        resident = self.residents[digest]
        assert resident.readiness is Readiness.PREWARMING
        ready = replace(resident, readiness=Readiness.READY, load_seconds=load_seconds, in_flight=in_flight)
        return _touched(self._put(ready), digest, now)

    def acquire(self, digest: Digest, *, now: float) -> "Residency":
        """Count one more request on a ready adapter; it moves into a slot."""
        resident = self.residents[digest]
        assert resident.readiness is Readiness.READY
        return _touched(self._put(replace(resident, in_flight=resident.in_flight + 1)), digest, now)

    def release(self, digest: Digest, *, now: float) -> "Residency":
        """Count one request less."""
        resident = self.residents[digest]
        assert resident.in_flight > 0
        return self._put(replace(resident, in_flight=resident.in_flight - 1, last_used_at=now))

    def with_pin(self, digest: Digest, *, pinned: bool) -> "Residency":
        """Pin or unpin a ready adapter. Raises NotFound."""
        return self._put(replace(self._ready(digest), pinned=pinned))

    def evict(self, digest: Digest) -> "Residency":
        """Remove an idle adapter. Raises NotFound, or PreconditionFailed when it is pinned or in flight."""
        resident = self._ready(digest)
        if not resident.evictable:
            found = "pinned" if resident.pinned else f"in use by {resident.in_flight} requests"
            raise PreconditionFailed(what=f"adapter {digest}", found=found, expected="idle")
        return self._drop(digest)

    def abandon(self, digest: Digest) -> "Residency":
        """Remove an adapter whose load failed."""
        assert self.residents[digest].readiness is Readiness.PREWARMING
        return self._drop(digest)

    def _ready(self, digest: Digest) -> Resident:
        resident = self.residents.get(digest)
        if resident is None or resident.readiness is not Readiness.READY:
            raise NotFound(kind="adapter on this engine", name=digest)
        return resident

    def _fits(self, count: int, size_bytes: int) -> bool:
        return count <= self.capacity.host and size_bytes <= self.capacity.host_bytes

    def _is_hopeless(self, size_bytes: int) -> bool:
        staying = [r for r in self.residents.values() if r.pinned]
        return not self._fits(len(staying) + 1, sum(r.size_bytes for r in staying) + size_bytes)

    def _put(self, resident: Resident) -> "Residency":
        return replace(self, residents={**self.residents, resident.digest: resident})

    def _drop(self, digest: Digest) -> "Residency":
        kept = {key: value for key, value in self.residents.items() if key != digest}
        return replace(self, residents=kept)


def _touched(residency: Residency, digest: Digest, now: float) -> Residency:
    """Mark as just used: it takes a slot, of the least recently used occupant if none is free.

    This mirrors vLLM, which activates an adapter when it is added or scheduled and frees slots by LRU.
    """
    clock = residency.clock + 1
    used = replace(residency.residents[digest], touched=clock, last_used_at=now, in_slot=True)
    changed = {**residency.residents, digest: used}
    in_slots = sorted((r for r in changed.values() if r.in_slot), key=lambda r: r.touched)
    for resident in in_slots[: max(0, len(in_slots) - residency.capacity.slots)]:
        changed[resident.digest] = replace(resident, in_slot=False)
    return replace(residency, residents=changed, clock=clock)
