"""A tenant's view of an adapter: what it may see of it, and its own changes to undo.

Equal bytes of several tenants are one adapter on an engine. Invariant: a tenant's view follows from its
own requests, prewarms, pins and evictions, and from evictions for lack of space; another tenant's use
of the same bytes adds nothing to it.
"""

import msgspec

from mint_common.claims import RevisionRef
from services.loader.core.cold_queue import Priority
from services.loader.core.residency import Resident, State


class TenantUse(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's use of one adapter.

    ``number`` is the engine's number of the load that the tenant uses, 0 before its first; ``slot_since``
    when the slot was taken that it used last. ``waiting`` counts loads and slots that it waits for; it has
    waited without a break since ``waiting_since``, most urgently with ``priority``. ``end`` is the state it
    sees when the adapter is not there for it.
    """

    revision: RevisionRef
    number: int = 0
    slot_since: float | None = None
    size_bytes: int = 0
    waiting: int = 0
    waiting_since: float = 0.0
    priority: Priority = Priority.PREFETCH
    in_flight: int = 0
    uses: int = 0
    last_used_at: float = 0.0
    end: State = State.REGISTERED


def state_for(
    use: TenantUse | None, resident: Resident | None, *, number: int | None, position: int | None
) -> State:
    """Return an adapter's state as a tenant sees it.

    ``number`` is the engine's number of the finished ``resident``; ``position`` that of its waiting load.
    """
    if use is None:
        return State.REGISTERED
    if resident is not None and number == use.number:
        if resident.state is State.READY and resident.slot_since == use.slot_since:
            return State.READY
        is_waiting = use.in_flight or use.waiting
        return State.ACTIVATING if resident.state is State.ACTIVATING and is_waiting else State.STAGED
    if use.waiting:
        return State.FETCHING if position is None else State.QUEUED
    return use.end
