"""Turns at the work that events ask for, shared by tenants."""

from mint_common.runtime.fair_gate import FairGate
from mint_common.tenant_budget import TenantBudget

DELIVERIES_A_TURN = 4
"""Events taken from the bus for each turn; the others wait, and their jobs know it."""
_RETRY_SECONDS = 2.0


def event_gate(in_hand: int, *, what: str) -> FairGate:
    """Return a gate of ``in_hand`` turns, of which a tenant leaves a quarter, and at least one, to others.

    At most half of the deliveries are one tenant's: Overloaded gives an event back to the bus for now.
    """
    limit = DELIVERIES_A_TURN * in_hand // 2
    callers = TenantBudget(what=what, limit=limit, retry_after_seconds=_RETRY_SECONDS)
    return FairGate(in_hand, limit=max(1, in_hand - max(1, in_hand // 4)), callers=callers)


def deliveries_of(gate: FairGate) -> int:
    """Return how many events are taken from the bus at a time."""
    return 2 * int(gate.callers.limit)
