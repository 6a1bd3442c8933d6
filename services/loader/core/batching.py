"""Who gets a slot next: at most ``slots`` distinct adapters are with the engine, and nobody waits for ever.

A request runs only on an adapter in a slot. While none is free or idle, those who wait are served in the
order in which they came; once the first of them has waited for ``drain_after_seconds``, the adapter that has
had its slot longest takes no new requests, so that its slot comes free when the running ones end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.ids import Digest
from services.loader.core.residency import Residency, Resident, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
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
    """What to do now: one activation, and which adapters take no new requests."""

    grant: Grant | None = None
    draining: frozenset[Digest] = frozenset()


def plan_slots(
    residency: Residency, waiting: Sequence[Waiting], *, now: float, drain_after_seconds: float
) -> SlotPlan:
    """Decide who gets a slot and who must make way. ``waiting`` adapters may have a slot already."""
    draining = _draining(residency, waiting, now=now, drain_after_seconds=drain_after_seconds)
    for wait in _in_line(residency, waiting):
        if residency.slots_used < residency.capacity.slots:
            return SlotPlan(grant=Grant(digest=wait.digest, victim=None), draining=draining)
        victim = None if wait.takes_empty_only else _idle(residency, waiting, draining)
        if victim is not None:
            return SlotPlan(grant=Grant(digest=wait.digest, victim=victim.digest), draining=draining)
    return SlotPlan(draining=draining)


def next_drain_seconds(
    residency: Residency, waiting: Sequence[Waiting], *, now: float, drain_after_seconds: float
) -> float | None:
    """Return in how many seconds the plan changes by itself; None when it does not."""
    young = [
        wait.since + drain_after_seconds - now
        for wait in _in_line(residency, waiting)
        if not wait.takes_empty_only and now - wait.since < drain_after_seconds
    ]
    return max(0.0, min(young)) if young else None


def _in_line(residency: Residency, waiting: Sequence[Waiting]) -> list[Waiting]:
    """Return who has no slot yet, requests first, in the order of their coming."""
    line = [wait for wait in waiting if residency.residents[wait.digest].state is State.STAGED]
    return sorted(line, key=lambda wait: (wait.takes_empty_only, wait.since))


def _idle(residency: Residency, waiting: Sequence[Waiting], draining: frozenset[Digest]) -> Resident | None:
    """Return the occupant that nothing runs on and that was used longest ago: all slots cost alike."""
    wanted = {wait.digest for wait in waiting if not wait.takes_empty_only} - draining
    idle = [
        r
        for r in residency.residents.values()
        if r.state is State.READY and r.running == 0 and r.digest not in wanted
    ]
    return min(idle, key=lambda r: (r.pinned, r.touched), default=None)


def _draining(
    residency: Residency, waiting: Sequence[Waiting], *, now: float, drain_after_seconds: float
) -> frozenset[Digest]:
    overdue = sum(
        not wait.takes_empty_only and now - wait.since >= drain_after_seconds
        for wait in _in_line(residency, waiting)
    )
    unused = residency.capacity.slots - residency.slots_used
    occupants = sorted(
        (r for r in residency.residents.values() if r.state is State.READY), key=lambda r: r.slot_since
    )
    return frozenset(r.digest for r in occupants[: max(0, overdue - unused)])
