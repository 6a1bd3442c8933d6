"""What a trainer does next: which policies' work runs together, what follows, who is swapped in and out.

A schedule is a value. Invariants (tests/unit/trainer/test_scheduler.py): a policy's operations are planned in
the order of their numbers, each once, and by one plan at a time; the tenant that was served least comes
first, and within a tenant the operation that waits longest, so nobody waits for ever; a plan stays within its
limits unless its first operation alone exceeds them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mint_common.ids import PolicyId, TenantId

Kind = Literal["forward", "forward_backward", "optim_step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A piece of a policy's work: ``seq`` is its place in the policy's order."""

    policy_id: PolicyId
    tenant_id: TenantId
    seq: int
    kind: Kind
    rank: int
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one plan: computed tokens, policies, and policies that fit on the device."""

    max_tokens: int
    max_policies: int
    device_policies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``batch`` runs as one forward and backward pass, then ``steps``, each of its own policy.

    ``swap_out`` leave the device before ``swap_in`` come.
    """

    batch: tuple[Operation, ...]
    steps: tuple[Operation, ...]
    swap_in: tuple[PolicyId, ...]
    swap_out: tuple[PolicyId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Operations that wait, in order of arrival, and how many tokens each active tenant was served."""

    waiting: tuple[Operation, ...] = ()
    served: Mapping[TenantId, int] = field(default_factory=dict)

    def add(self, operation: Operation) -> "Schedule":
        """Return the schedule with one more operation.

        A tenant that had nothing to do starts level with the least served: idling earns no credit.
        """
        served = dict(self.served)
        if operation.tenant_id not in served:
            served[operation.tenant_id] = min(served.values(), default=0)
        return replace(self, waiting=(*self.waiting, operation), served=served)

    def drop(self, policy_id: PolicyId) -> "Schedule":
        """Return the schedule without a policy's operations."""
        return _left(self.waiting, self.served, [one for one in self.waiting if one.policy_id == policy_id])

    def plan(self, limits: Limits, *, on_device: Sequence[PolicyId]) -> "tuple[Plan, Schedule]":
        """Return what to do next and the schedule after it; ``on_device`` is in order of last use.

        Policies whose ranks differ by more than the next power of two are not padded to one another.
        """
        runs = _ready_runs(self.waiting)
        served = dict(self.served)
        chosen: list[_Run] = []
        tokens = 0
        while runs and len(chosen) < min(limits.max_policies, limits.device_policies):
            run = min(runs, key=lambda run: (served[run.tenant_id], run.arrival))
            runs.remove(run)
            fits = tokens + run.tokens <= limits.max_tokens
            if chosen and not (fits and _rank_class(run) == _rank_class(chosen[0])):
                continue
            chosen.append(run)
            tokens += run.tokens
            served[run.tenant_id] += max(1, run.tokens)
        operations = [operation for run in chosen for operation in run.operations]
        plan = _plan(operations, [run.policy_id for run in chosen], limits, on_device)
        return plan, _left(self.waiting, served, operations)


def _left(
    waiting: Sequence[Operation], served: Mapping[TenantId, int], gone: Collection[Operation]
) -> Schedule:
    """Return the schedule without some operations; a tenant without any is forgotten."""
    keys = {(one.policy_id, one.seq) for one in gone}
    left = tuple(one for one in waiting if (one.policy_id, one.seq) not in keys)
    active = {one.tenant_id for one in left}
    return Schedule(
        waiting=left, served={tenant: tokens for tenant, tokens in served.items() if tenant in active}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What one policy can do in one plan: some passes, then at most one step."""

    operations: tuple[Operation, ...]
    arrival: int

    @property
    def policy_id(self) -> PolicyId:
        return self.operations[0].policy_id

    @property
    def tenant_id(self) -> TenantId:
        return self.operations[0].tenant_id

    @property
    def tokens(self) -> int:
        return sum(operation.tokens for operation in self.operations)


def _ready_runs(waiting: Sequence[Operation]) -> list[_Run]:
    queues: dict[PolicyId, list[tuple[int, Operation]]] = {}
    for arrival, operation in enumerate(waiting):
        queues.setdefault(operation.policy_id, []).append((arrival, operation))
    return [_first_run(queue) for queue in queues.values()]


def _first_run(queue: list[tuple[int, Operation]]) -> _Run:
    """Return the head of a policy's queue, and the step behind it if that comes next."""
    ordered = [operation for _, operation in sorted(queue, key=lambda item: item[1].seq)]
    step_follows = (
        ordered[0].kind != "optim_step"
        and len(ordered) > 1
        and ordered[1].kind == "optim_step"
        and ordered[1].seq == ordered[0].seq + 1
    )
    return _Run(
        operations=tuple(ordered[: 2 if step_follows else 1]), arrival=min(arrival for arrival, _ in queue)
    )


def _rank_class(run: _Run) -> int:
    return (run.operations[0].rank - 1).bit_length()


def _plan(
    operations: Sequence[Operation],
    policies: Sequence[PolicyId],
    limits: Limits,
    on_device: Sequence[PolicyId],
) -> Plan:
    swap_in = tuple(policy for policy in policies if policy not in on_device)
    idle = [policy for policy in on_device if policy not in policies]
    surplus = max(0, len(on_device) + len(swap_in) - limits.device_policies)
    return Plan(
        batch=tuple(operation for operation in operations if operation.kind != "optim_step"),
        steps=tuple(operation for operation in operations if operation.kind == "optim_step"),
        swap_in=swap_in,
        swap_out=tuple(idle[:surplus]),
    )
