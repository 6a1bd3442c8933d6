"""The adapters on the engine with tier and state, and the choice of victims.

Invariants: the bytes and the number of adapters counted here, including loading ones, never exceed the
capacity; a pinned, claimed or loading adapter is never evicted; at most ``slots`` adapters are in slots; an
adapter with a running request keeps its slot. Every adapter in a slot is in host memory as well.

GDSF (greedy dual size frequency) chooses the victim with the least worth = age + uses * reload cost / bytes.
``age`` is the worth of the last victim, so formerly valuable adapters do not stay for ever; a scan of
names used once never displaces often used ones, and of two with equal use the one that is cheaper to reload
per byte leaves first. benches/eviction.py compares it with others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from mint_common.errors import NotFound, PreconditionFailed
from mint_common.ids import Digest, TenantId

_MIN_COST_SECONDS = 1e-4
"""A load measured as nothing still costs something."""


class Tier(StrEnum):
    """Place from which an adapter is used."""

    STORED = "stored"  # on a disk only
    HOST = "host"  # in host memory
    SLOT = "slot"  # in a slot of the engine as well


class State(StrEnum):
    """Progress of an adapter's load."""

    REGISTERED = "registered"  # known, no load is asked for
    QUEUED = "queued"  # its load waits in the cold queue
    FETCHING = "fetching"  # its files are fetched, checked and laid out; its room may be reserved already
    STAGED = "staged"  # finished in host memory
    ACTIVATING = "activating"  # being copied into a slot
    READY = "ready"  # in a slot: a request for it starts at once
    EVICTED = "evicted"  # left the engine; the next request loads it again
    FAILED = "failed"  # can't be loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The engine's capacity: adapters in slots, adapters in host memory, and bytes of those."""

    slots: int
    host: int
    host_bytes: int


# Structs, as a request replaces such values fourteen times: a dataclass takes 3 us for each, these 0.1 us.
class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter on the engine, for all tenants with the same bytes; ``pins`` are the tenants that pin it.

    ``in_flight`` requests have claimed it; ``running`` of them are with the engine, the others wait for its
    slot. ``touched`` orders uses; ``last_used_at`` is their wall time; ``slot_since`` when it got its slot,
    and ``slot_uses`` how many requests ran there since.
    """

    digest: Digest
    size_bytes: int
    state: State = State.FETCHING
    pins: frozenset[TenantId] = frozenset()
    in_flight: int = 0
    running: int = 0
    uses: int = 0
    touched: int = 0
    worth: float = 0.0
    last_used_at: float = 0.0
    load_seconds: float = 0.0
    slot_since: float = 0.0
    slot_uses: int = 0

    @property
    def tier(self) -> Tier:
        """Return where it can be used from; a load that still runs leaves it stored."""
        if self.state is State.FETCHING:
            return Tier.STORED
        return Tier.SLOT if self.state is State.READY else Tier.HOST

    @property
    def in_slot(self) -> bool:
        """Return whether it takes a slot."""
        return self.state in (State.ACTIVATING, State.READY)

    @property
    def pinned(self) -> bool:
        """Return whether a tenant pins it."""
        return bool(self.pins)

    @property
    def evictable(self) -> bool:
        """Return whether it may leave now."""
        return self.state in (State.STAGED, State.READY) and not self.pinned and self.in_flight == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A plan to make room: ``victims`` leave, the least worth first.

    ``fits`` is False when even that is not enough; ``hopeless`` when the end of running requests would not be
    enough either.
    """

    fits: bool
    victims: tuple[Digest, ...] = ()
    hopeless: bool = False


class Residency(msgspec.Struct, frozen=True, kw_only=True):
    """The adapters of one engine, as a value; each change returns the next value.

    ``used_bytes`` are those of all residents, including loading ones; ``slots_used`` have a slot. Both are
    stored, not counted, because every step of every load reads them.
    """

    capacity: Capacity
    residents: Mapping[Digest, Resident] = msgspec.field(default_factory=dict)
    turn: int = 0
    age: float = 0.0
    used_bytes: int = 0
    slots_used: int = 0

    def get(self, digest: Digest) -> Resident | None:
        """Return a resident, loading or finished."""
        return self.residents.get(digest)

    def in_host(self, digest: Digest) -> bool:
        """Return whether an adapter is finished in host memory, in a slot or not."""
        resident = self.residents.get(digest)
        return resident is not None and resident.state is not State.FETCHING

    def plan_room(self, size_bytes: int) -> Room:
        """Decide who must leave so that one more adapter of that size fits."""
        count, used = len(self.residents), self.used_bytes
        if self._fits(count + 1, used + size_bytes):
            return Room(fits=True)
        victims: list[Digest] = []
        idle = sorted((r for r in self.residents.values() if r.evictable), key=lambda r: (r.worth, r.touched))
        for resident in idle:
            victims.append(resident.digest)
            count, used = count - 1, used - resident.size_bytes
            if self._fits(count + 1, used + size_bytes):
                return Room(fits=True, victims=self._spare(victims, count, used + size_bytes))
        return Room(fits=False, hopeless=self._is_hopeless(size_bytes))

    def reserve(self, digest: Digest, size_bytes: int) -> "Residency":
        """Enter an adapter whose load begins; the caller has made room."""
        assert digest not in self.residents
        assert self._fits(len(self.residents) + 1, self.used_bytes + size_bytes)
        return self._put(Resident(digest=digest, size_bytes=size_bytes))

    def abandon(self, digest: Digest) -> "Residency":
        """Remove an adapter whose load failed."""
        assert self.residents[digest].state is State.FETCHING
        return self._drop(digest)

    def finish_load(
        self, digest: Digest, *, size_bytes: int, load_seconds: float, claims: int, now: float
    ) -> "Residency":
        """Finish a load: the adapter is in host memory, and its waiters have claimed it.

        ``size_bytes`` is its actual size, at most the reserved one.
        """
        resident = self.residents[digest]
        assert resident.state is State.FETCHING
        assert size_bytes <= resident.size_bytes
        staged = replace(
            resident,
            state=State.STAGED,
            size_bytes=size_bytes,
            load_seconds=load_seconds,
            in_flight=claims,
            uses=max(0, claims - 1),
        )
        return self._used(staged, now)

    def claim(self, digest: Digest, *, now: float) -> "Residency":
        """Count one more request on an adapter in host memory: it stays until the request ends."""
        resident = self.residents[digest]
        assert resident.state is not State.FETCHING
        return self._used(replace(resident, in_flight=resident.in_flight + 1), now)

    def unclaim(self, digest: Digest, *, now: float) -> "Residency":
        """Count one request less that has not begun to run."""
        resident = self.residents[digest]
        assert resident.in_flight > resident.running
        return self._put(replace(resident, in_flight=resident.in_flight - 1, last_used_at=now))

    def begin(self, digest: Digest) -> "Residency":
        """Pass one claiming request to the engine; the adapter keeps its slot until it ends."""
        resident = self.residents[digest]
        assert resident.state is State.READY
        assert resident.running < resident.in_flight
        return self._put(replace(resident, running=resident.running + 1, slot_uses=resident.slot_uses + 1))

    def end(self, digest: Digest) -> "Residency":
        """Take one request back from the engine; it still claims the adapter."""
        resident = self.residents[digest]
        assert resident.running > 0
        return self._put(replace(resident, running=resident.running - 1))

    def take_slot(self, digest: Digest, *, victim: Digest | None) -> "Residency":
        """Begin to copy an adapter into a slot: a free one, or that of an adapter that nothing runs on."""
        resident = self.residents[digest]
        assert resident.state is State.STAGED
        assert self.slots_used - (victim is not None) < self.capacity.slots
        winner = replace(resident, state=State.ACTIVATING)
        if victim is None:
            return self._put(winner)
        loser = self.residents[victim]
        assert loser.state is State.READY
        assert loser.running == 0
        return self._put(replace(loser, state=State.STAGED), winner)

    def finish_slot(self, digest: Digest, *, now: float) -> "Residency":
        """Finish the copy."""
        resident = self.residents[digest]
        assert resident.state is State.ACTIVATING
        return self._put(replace(resident, state=State.READY, slot_since=now, slot_uses=0))

    def fail_slot(self, digest: Digest) -> "Residency":
        """Give up the copy: the adapter is in host memory as before."""
        resident = self.residents[digest]
        assert resident.state is State.ACTIVATING
        return self._put(replace(resident, state=State.STAGED))

    def with_pin(self, digest: Digest, tenant_id: TenantId, *, pinned: bool) -> "Residency":
        """Pin or unpin an adapter in host memory for a tenant. Raises NotFound."""
        resident = self._finished(digest)
        pins = resident.pins | {tenant_id} if pinned else resident.pins - {tenant_id}
        return self._put(replace(resident, pins=pins))

    def evict(self, digest: Digest) -> "Residency":
        """Remove an idle adapter. Raises NotFound, or PreconditionFailed when it is pinned or in use."""
        resident = self._finished(digest)
        if not resident.evictable:
            raise PreconditionFailed(what=f"adapter {digest}", found=_reason(resident), expected="idle")
        return replace(self._drop(digest), age=max(self.age, resident.worth))

    def _finished(self, digest: Digest) -> Resident:
        resident = self.residents.get(digest)
        if resident is None or resident.state is State.FETCHING:
            raise NotFound(kind="adapter on this engine", name=digest)
        return resident

    def _fits(self, count: int, size_bytes: int) -> bool:
        return count <= self.capacity.host and size_bytes <= self.capacity.host_bytes

    def _spare(self, victims: list[Digest], count: int, size_bytes: int) -> tuple[Digest, ...]:
        """Return the victims without those whose leaving is not needed after all."""
        needed = list(victims)
        for digest in reversed(victims[:-1]):
            size = self.residents[digest].size_bytes
            if self._fits(count + 2, size_bytes + size):
                needed.remove(digest)
                count, size_bytes = count + 1, size_bytes + size
        return tuple(needed)

    def _is_hopeless(self, size_bytes: int) -> bool:
        staying = [r for r in self.residents.values() if r.pinned]
        return not self._fits(len(staying) + 1, sum(r.size_bytes for r in staying) + size_bytes)

    def _used(self, resident: Resident, now: float) -> "Residency":
        turn = self.turn + 1
        used = replace(resident, uses=resident.uses + 1, touched=turn, last_used_at=now)
        return replace(self._put(replace(used, worth=self._worth(used))), turn=turn)

    def _worth(self, resident: Resident) -> float:
        cost_seconds = max(resident.load_seconds, _MIN_COST_SECONDS)
        return self.age + resident.uses * cost_seconds * 1e6 / max(resident.size_bytes, 1)

    def _put(self, *changed: Resident) -> "Residency":
        residents, used_bytes, slots_used = dict(self.residents), self.used_bytes, self.slots_used
        for resident in changed:
            before = residents.get(resident.digest)
            residents[resident.digest] = resident
            used_bytes += resident.size_bytes - (before.size_bytes if before else 0)
            slots_used += resident.in_slot - (before.in_slot if before else False)
        return replace(self, residents=residents, used_bytes=used_bytes, slots_used=slots_used)

    def _drop(self, digest: Digest) -> "Residency":
        kept = dict(self.residents)
        gone = kept.pop(digest)
        return replace(
            self,
            residents=kept,
            used_bytes=self.used_bytes - gone.size_bytes,
            slots_used=self.slots_used - gone.in_slot,
        )


def _reason(resident: Resident) -> str:
    if resident.pinned:
        return "pinned"
    if resident.state is State.ACTIVATING:
        return "being activated"
    return f"in use by {resident.in_flight} requests"
