"""Limit the engine's time for following structures of answers: per request, per tenant, per step.

Invariants: all sequences of a request have one allowance; a tenant's calls take at most `STEP_SECONDS` of a
step and, beyond it, a token's allowance for each of its sequences; over time its structures take at most
`SHARE` of an engine with other active tenants.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from services.loader.core.stall_budget import StallBudget

SECONDS_A_TOKEN = 0.002
"""Processor time allowed per token: a step of a usual schema takes 0.01 to 1.5 ms with a vocabulary of
150,000 tokens."""
MAX_SECONDS = 0.1
"""Processor time that a request starts with, and the maximum that its tokens save up, beyond what a step of
all its sequences may take."""
STEP_SECONDS = 0.05
"""Processor time of a step for one tenant; past it each further call has the time of one token."""
PLANNED_SECONDS = 0.02
"""Expected time of a tenant's sequences in a step while others are active; a single sequence may take
more."""
SHARE = 0.2
"""Share of an engine's time for a tenant's structures while others are active."""


@dataclass(slots=True, kw_only=True, eq=False)
class TenantTime:
    """Time used by a tenant's structures."""

    name: str
    budget: StallBudget
    step_seconds: float = 0.0
    """Taken since the last step was planned."""

    @classmethod
    def full(cls, name: str, *, now: float) -> "TenantTime":
        """Return the time of a tenant that has used none."""
        budget = StallBudget.full(share=SHARE, burst_ms=PLANNED_SECONDS * 1e3, now=now)
        return cls(name=name, budget=budget)

    def is_spent(self, now: float) -> bool:
        """Return whether the tenant's structures have taken more than their share."""
        return self.budget.wait_seconds(now) > 0


@dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class RequestTime:
    """Remaining time for the structures of one request's sequences."""

    tenant: TenantTime
    seconds_left: float = MAX_SECONDS
    max_seconds: float = MAX_SECONDS

    def join(self) -> None:
        """Count a further sequence; a request without time left gets none by it."""
        self.max_seconds += SECONDS_A_TOKEN
        self.earn(1)

    def call_seconds(self) -> float:
        """Return the time limit of the next call, 0 when no time is left."""
        in_step = max(SECONDS_A_TOKEN, STEP_SECONDS - self.tenant.step_seconds)
        return max(0.0, min(self.seconds_left, in_step))

    def spend(self, seconds: float) -> None:
        """Charge the time of a call."""
        self.seconds_left -= seconds
        self.tenant.step_seconds += seconds

    def earn(self, tokens: int) -> None:
        """Count accepted tokens; a request without time left earns none."""
        if self.seconds_left > 0:
            self.seconds_left = min(self.max_seconds, self.seconds_left + SECONDS_A_TOKEN * tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredSequence:
    """A running sequence; ``expected_seconds`` None: it follows no structure."""

    tenant: str
    expected_seconds: float | None


@dataclass(slots=True, kw_only=True)
class StructureTimes:
    """The times of one engine."""

    _tenants: dict[str, TenantTime] = field(default_factory=dict)
    _requests: WeakValueDictionary[tuple[str, str], RequestTime] = field(default_factory=WeakValueDictionary)

    def of_request(self, tenant: str, request: str, *, now: float) -> RequestTime:
        """Return the time of a request, for one more of its sequences: they share it while one holds it."""
        found = self._requests.get((tenant, request))
        if found is None:
            found = RequestTime(tenant=self._of_tenant(tenant, now=now))
            self._requests[tenant, request] = found
        found.join()
        return found

    def settle(self, *, now: float) -> list[tuple[str, float]]:
        """Begin a step; return who is to be charged how many seconds for the last one."""
        held = {request.tenant.name for request in self._requests.values()}
        taken: list[tuple[str, float]] = []
        for tenant in list(self._tenants.values()):
            if tenant.step_seconds:
                taken.append((tenant.name, tenant.step_seconds))
                tenant.budget = tenant.budget.spend(tenant.step_seconds * 1e3, now=now)
                tenant.step_seconds = 0.0
            elif tenant.name not in held and not tenant.is_spent(now):
                del self._tenants[tenant.name]
        return taken

    def spent(self, now: float) -> frozenset[str]:
        """Return whose structures have taken more than their share."""
        return frozenset(each.name for each in self._tenants.values() if each.is_spent(now))

    def _of_tenant(self, name: str, *, now: float) -> TenantTime:
        if name not in self._tenants:
            self._tenants[name] = TenantTime.full(name, now=now)
        return self._tenants[name]


def leave_step(running: Sequence[StructuredSequence], *, sitting_out: Collection[str]) -> list[int]:
    """Return the running sequences to leave out of a step, because their structures would take too much of
    it.

    These are all sequences of tenants above their share, and for others all but as many as a step has time
    for.
    """
    tenants = {each.tenant for each in running if each.expected_seconds is not None}
    expected: dict[str, float] = {}
    leaving: list[int] = []
    for at, each in enumerate(running):
        if each.expected_seconds is None:
            continue
        is_first = each.tenant not in expected
        expected[each.tenant] = expected.get(each.tenant, 0.0) + each.expected_seconds
        is_too_much = not is_first and expected[each.tenant] > PLANNED_SECONDS / len(tenants)
        if is_too_much or each.tenant in sitting_out:
            leaving.append(at)
    return leaving
