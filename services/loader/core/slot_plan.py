"""Assignment of slots: at most ``slots`` distinct adapters are with the engine, and no request waits for
ever.

A request runs only on an adapter in a slot. While none is free or idle, waiting adapters are served in
order of arrival; once the first has waited for ``drain_after_seconds``, the adapter that has
had its slot longest takes no new requests, so that its slot becomes free when the running ones end.

A repeatedly used adapter keeps its slot from a scan of adapters that are used once: only an adapter that has
waited that long takes its slot, even if it is idle. A quarter of the slots is never protected.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.ids import Digest
from services.loader.core.residency import Residency, Resident, State

_REMEMBERED_USES = 16
"""Uses of all adapters, per slot, after which an adapter that had none of them keeps its slot no longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingAdapter:
    """An adapter whose first waiting request came at ``since``. A prewarm takes empty slots only."""

    digest: Digest
    since: float
    takes_empty_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A slot for an adapter: an empty one, or the victim's."""

    digest: Digest
    victim: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlan:
    """The next actions: one activation, and the adapters that take no new requests."""

    grant: Grant | None = None
    draining: frozenset[Digest] = frozenset()


def plan_slots(
    residency: Residency, waiting: Sequence[WaitingAdapter], *, now: float, drain_after_seconds: float
) -> SlotPlan:
    """Decide which adapter gets a slot and which must leave. ``waiting`` adapters may have a slot already."""
    draining = _draining(residency, waiting, now=now, drain_after_seconds=drain_after_seconds)
    protected = _protected(residency)
    for wait in _without_slot(residency, waiting):
        if residency.slots_used < residency.capacity.slots:
            return SlotPlan(grant=Grant(digest=wait.digest, victim=None), draining=draining)
        if wait.takes_empty_only:
            continue
        overdue = now - wait.since >= drain_after_seconds
        idle = _idle(residency, waiting, draining)
        victim = _last_used([r for r in idle if r.digest not in protected] or (idle if overdue else []))
        if victim is not None:
            return SlotPlan(grant=Grant(digest=wait.digest, victim=victim.digest), draining=draining)
    return SlotPlan(draining=draining)


def next_drain_seconds(
    residency: Residency, waiting: Sequence[WaitingAdapter], *, now: float, drain_after_seconds: float
) -> float | None:
    """Return in how many seconds the plan changes by itself; None when it does not."""
    young = [
        wait.since + drain_after_seconds - now
        for wait in _without_slot(residency, waiting)
        if not wait.takes_empty_only and now - wait.since < drain_after_seconds
    ]
    return max(0.0, min(young)) if young else None


def _without_slot(residency: Residency, waiting: Sequence[WaitingAdapter]) -> list[WaitingAdapter]:
    """Return who has no slot yet, requests first, in the order of their coming."""
    line = [wait for wait in waiting if residency.residents[wait.digest].state is State.STAGED]
    return sorted(line, key=lambda wait: (wait.takes_empty_only, wait.since))


def _idle(
    residency: Residency, waiting: Sequence[WaitingAdapter], draining: frozenset[Digest]
) -> list[Resident]:
    """Return the occupants without running or waiting requests."""
    wanted = {wait.digest for wait in waiting if not wait.takes_empty_only} - draining
    return [
        r
        for r in residency.residents.values()
        if r.state is State.READY and r.running == 0 and r.digest not in wanted
    ]


def _last_used(idle: Sequence[Resident]) -> Resident | None:
    """Return who was used longest ago: all slots cost alike."""
    return min(idle, key=lambda r: (r.pinned, r.touched), default=None)


def _protected(residency: Residency) -> frozenset[Digest]:
    """Return the adapters protected from a scan: the last used of those used repeatedly in their slot."""
    slots = residency.capacity.slots
    since = residency.turn - _REMEMBERED_USES * slots
    repeated = [
        r
        for r in residency.residents.values()
        if r.state is State.READY and r.slot_uses > 1 and r.touched > since
    ]
    repeated.sort(key=lambda r: r.touched, reverse=True)
    return frozenset(r.digest for r in repeated[: slots - max(1, slots // 4)])


def _draining(
    residency: Residency, waiting: Sequence[WaitingAdapter], *, now: float, drain_after_seconds: float
) -> frozenset[Digest]:
    overdue = sum(
        not wait.takes_empty_only and now - wait.since >= drain_after_seconds
        for wait in _without_slot(residency, waiting)
    )
    unused = residency.capacity.slots - residency.slots_used
    unused += len(_idle(residency, waiting, frozenset()))  # those make way as they are
    occupants = sorted(
        (r for r in residency.residents.values() if r.state is State.READY), key=lambda r: r.slot_since
    )
    return frozenset(r.digest for r in occupants[: max(0, overdue - unused)])
