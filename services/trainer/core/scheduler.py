"""Schedule a trainer's work: which policies' operations run together, what follows, and what is swapped out.

A schedule is a value. Invariants (tests/unit/trainer/test_scheduler.py): a policy's operations are planned in
the order of their numbers, each once, and by one plan at a time; the tenant with the fewest served tokens
comes first, and within a tenant the longest waiting operation, so no operation waits for ever; a plan stays
within its limits. An operation that alone exceeds them is computed in runs, between which others are planned:
a tenant has one such operation open at a time, which bounds the memory of partial results. With one policy
per plan, every pass is computed alone: then only the order of operations decides a result's last bits.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mint_common.ids import PolicyId, TenantId

Kind = Literal["forward", "forward_backward", "optim_step", "copy", "upkeep"]
"""A copy is what a save, a snapshot or an export is made of; upkeep replaces or drops a policy's state."""
_PASSES: tuple[Kind, ...] = ("forward", "forward_backward")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A piece of a policy's work: ``seq`` numbers it, ``alone`` excludes others from its batch.

    ``in_runs``: it is computed in several runs; ``is_open``: one of them has been planned.
    """

    policy_id: PolicyId
    tenant_id: TenantId
    seq: int
    kind: Kind
    rank: int
    tokens: int = 0
    alone: bool = False
    in_runs: bool = False
    is_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """Limits of one plan: computed tokens, policies, and policies that fit on the device."""

    max_tokens: int
    max_policies: int
    device_policies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``batch`` runs as one pass, then ``steps``, each of its own policy, then ``upkeep``.

    Or it is the next run of one operation, ``run``. ``swap_out`` leave the device before policies of the plan
    come.
    """

    batch: tuple[Operation, ...]
    steps: tuple[Operation, ...]
    upkeep: tuple[Operation, ...]
    swap_out: tuple[PolicyId, ...]
    run: Operation | None = None


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

    def plan(self, limits: SchedulerLimits, *, on_device: Sequence[PolicyId]) -> "tuple[Plan, Schedule]":
        """Return what to do next and the schedule after it; ``on_device`` is in order of last use.

        Policies whose ranks differ by more than the next power of two are not padded to one another. An
        operation in runs waits on until `ran` says that it is done. Nothing comes between the runs of one
        that is computed alone: it would be blamed for what ends the process then.
        """
        runs = [run for run in _ready_runs(self.waiting, limits) if self._can_run(run.operations[0], limits)]
        runs = [run for run in runs if run.operations[0].alone and run.operations[0].is_open] or runs
        served = dict(self.served)
        chosen: list[_ReadyRun] = []
        tokens = 0
        while runs and len(chosen) < min(limits.max_policies, limits.device_policies):
            run = min(runs, key=lambda run: (served[run.tenant_id], run.arrival))
            runs.remove(run)
            fits = tokens + run.tokens <= limits.max_tokens
            if chosen and not (fits and run.goes_with(chosen[0])):
                continue
            if run.operations[0].in_runs:
                return self._next_run(run.operations[0], limits, on_device)
            chosen.append(run)
            tokens += run.tokens
            served[run.tenant_id] += max(1, run.tokens)
        operations = [operation for run in chosen for operation in run.operations]
        plan = _plan(operations, [run.policy_id for run in chosen], limits, on_device)
        return plan, _left(self.waiting, served, operations)

    def ran(self, operation: Operation, *, tokens: int, is_done: bool) -> "Schedule":
        """Return the schedule after a run of ``tokens`` of an operation, its last run if ``is_done``.

        Operations that arrived meanwhile go before its next run.
        """
        served = {**self.served, operation.tenant_id: self.served[operation.tenant_id] + max(1, tokens)}
        others = [one for one in self.waiting if one.policy_id != operation.policy_id]
        own = [one for one in self.waiting if one.policy_id == operation.policy_id]
        return _left((*others, *own), served, [operation] if is_done else [])

    def _can_run(self, operation: Operation, limits: SchedulerLimits) -> bool:
        if not operation.in_runs or operation.is_open:
            return True
        tenants = [one.tenant_id for one in self.waiting if one.is_open]
        return operation.tenant_id not in tenants and len(tenants) < limits.device_policies

    def _next_run(
        self, operation: Operation, limits: SchedulerLimits, on_device: Sequence[PolicyId]
    ) -> "tuple[Plan, Schedule]":
        plan = _plan([], [operation.policy_id], limits, on_device)
        opened = replace(operation, is_open=True)
        waiting = tuple(opened if one is operation else one for one in self.waiting)
        return replace(plan, run=opened), replace(self, waiting=waiting)


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
class _ReadyRun:
    """A policy's work for one plan: some passes, at most one step, a copy; or one operation alone."""

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

    def goes_with(self, other: "_ReadyRun") -> bool:
        """Return whether both can be computed as one batch: alike, and not padded much to one another."""
        first, others = self.operations[0], other.operations[0]
        is_apart = first.alone or others.alone or first.in_runs or others.in_runs
        return not is_apart and _padded_rank(first) == _padded_rank(others)


def _padded_rank(operation: Operation) -> int:
    return (operation.rank - 1).bit_length()


def _ready_runs(waiting: Sequence[Operation], limits: SchedulerLimits) -> list[_ReadyRun]:
    queues: dict[PolicyId, list[tuple[int, Operation]]] = {}
    for arrival, operation in enumerate(waiting):
        queues.setdefault(operation.policy_id, []).append((arrival, operation))
    return [_first_run(queue, limits) for queue in queues.values()]


def _first_run(queue: list[tuple[int, Operation]], limits: SchedulerLimits) -> _ReadyRun:
    """Return the head of a policy's queue: consecutive passes, then a step and a copy."""
    ordered = [operation for _, operation in sorted(queue, key=lambda item: item[1].seq)]
    arrival = min(arrival for arrival, _ in queue)
    taken = [ordered[0]]
    if ordered[0].kind in _PASSES and not ordered[0].in_runs:
        tokens = ordered[0].tokens
        for operation in ordered[1:]:
            tokens += operation.tokens
            fits = limits.max_policies > 1 and tokens <= limits.max_tokens
            if operation.kind not in _PASSES or not fits or operation.alone or ordered[0].alone:
                break
            taken.append(operation)
        for kind in ("optim_step", "copy"):
            behind = ordered[len(taken) :]
            if behind and behind[0].kind == kind:
                taken.append(behind[0])
    return _ReadyRun(operations=tuple(taken), arrival=arrival)


def _plan(
    operations: Sequence[Operation],
    policies: Sequence[PolicyId],
    limits: SchedulerLimits,
    on_device: Sequence[PolicyId],
) -> Plan:
    idle = [policy for policy in on_device if policy not in policies]
    surplus = max(0, len(idle) + len(policies) - limits.device_policies)
    return Plan(
        batch=tuple(operation for operation in operations if operation.kind in _PASSES),
        steps=tuple(operation for operation in operations if operation.kind == "optim_step"),
        upkeep=tuple(operation for operation in operations if operation.kind in {"copy", "upkeep"}),
        swap_out=tuple(idle[:surplus]),
    )
