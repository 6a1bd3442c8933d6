"""The operation scheduler: order kept, limits kept, nobody starves, tenants share."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mint_common.ids import PolicyId, TenantId
from services.trainer.core.scheduler import Kind, Operation, Plan, Schedule, SchedulerLimits

kinds: st.SearchStrategy[Kind] = st.sampled_from(
    ["forward", "forward_backward", "optim_step", "copy", "upkeep"]
)
items = st.lists(st.tuples(st.integers(0, 4), kinds, st.integers(0, 300)), max_size=40)
limits = st.builds(
    SchedulerLimits,
    max_tokens=st.integers(1, 600),
    max_policies=st.integers(1, 5),
    device_policies=st.integers(1, 5),
)
RANKS = (8, 8, 5, 16, 1)
RUNS = 3


def operation(
    policy: int,
    seq: int,
    kind: Kind = "forward_backward",
    *,
    tokens: int = 100,
    tenant: int | None = None,
    in_runs: bool = False,
) -> Operation:
    """Policies 0 and 1 are of tenant 0, 2 and 3 of tenant 1, unless told."""
    return Operation(
        policy_id=PolicyId(f"policy_{policy}"),
        tenant_id=TenantId(f"tenant_{policy // 2 if tenant is None else tenant}"),
        seq=seq,
        kind=kind,
        rank=RANKS[policy % 5],
        tokens=0 if kind in {"optim_step", "copy", "upkeep"} else tokens,
        # Some are computed by themselves, as after a fault.
        alone=tokens % 7 == 1,
        in_runs=in_runs,
    )


def schedule_of(
    queue: list[tuple[int, Kind, int]], *, runs_from: int = 1000
) -> tuple[Schedule, list[Operation]]:
    seen: Counter[int] = Counter()
    operations = []
    for policy, kind, tokens in queue:
        operations.append(
            operation(policy, seen[policy], kind, tokens=tokens, in_runs=tokens >= runs_from and "f" in kind)
        )
        seen[policy] += 1
    schedule = Schedule()
    for one in operations:
        schedule = schedule.add(one)
    return schedule, operations


def work_of(plan: Plan) -> list[Operation]:
    """Return all that a plan does, in its order."""
    return [*plan.batch, *plan.steps, *plan.upkeep]


def drain(schedule: Schedule, limits: SchedulerLimits) -> list[Plan]:
    """Plan until nothing waits, keeping the device as plans say; what is in runs takes `RUNS` of them."""
    plans, device, runs = [], [], Counter[tuple[PolicyId, int]]()
    while schedule.waiting:
        plan, schedule = schedule.plan(limits, on_device=device)
        if plan.run:
            assert not work_of(plan)
            key = (plan.run.policy_id, plan.run.seq)
            runs[key] += 1
            is_done = runs[key] == RUNS
            schedule = schedule.ran(plan.run, tokens=plan.run.tokens // RUNS, is_done=is_done)
            plan = replace(plan, upkeep=(plan.run,) if is_done else ())
        assert work_of(plan) or plan.run
        left = [policy for policy in device if policy not in plan.swap_out]
        device = list(dict.fromkeys([*left, *(one.policy_id for one in work_of(plan))]))
        assert len(device) <= limits.device_policies
        plans.append(plan)
    return plans


@given(items, limits)
def test_every_operation_is_planned_once_in_its_policy_s_order(
    queue: list[tuple[int, Kind, int]], limits: SchedulerLimits
) -> None:
    schedule, operations = schedule_of(queue, runs_from=250)
    done = [one for plan in drain(schedule, limits) for one in work_of(plan)]
    done = [replace(one, is_open=False) for one in done]
    assert sorted(done, key=repr) == sorted(operations, key=repr)
    for policy in {one.policy_id for one in operations}:
        numbers = [one.seq for one in done if one.policy_id == policy]
        assert numbers == sorted(numbers)


@given(items, limits)
def test_a_plan_keeps_its_limits(queue: list[tuple[int, Kind, int]], limits: SchedulerLimits) -> None:
    schedule, _ = schedule_of(queue)
    for plan in drain(schedule, limits):
        policies = {one.policy_id for one in work_of(plan)}
        assert len(policies) <= min(limits.max_policies, limits.device_policies)
        assert len(policies) == 1 or sum(one.tokens for one in plan.batch) <= limits.max_tokens
        # Rank 5 is padded to 8, but neither to 16, nor 1 to 5.
        assert len({(one.rank - 1).bit_length() for one in work_of(plan)}) == 1
        # Passes of one policy go together as long as they fit, and not at all where every pass is alone.
        assert len(plan.batch) <= len(policies) or sum(one.tokens for one in plan.batch) <= limits.max_tokens
        assert len(plan.batch) <= 1 or limits.max_policies > 1
        # What is alone has no company but its own policy's step and copy.
        assert not any(one.alone for one in plan.batch) or len(plan.batch) == 1 == len(policies)


@given(items, limits)
def test_what_waits_longest_of_the_least_served_tenant_comes_first(
    queue: list[tuple[int, Kind, int]], limits: SchedulerLimits
) -> None:
    schedule, _ = schedule_of(queue)
    while schedule.waiting:
        least = min(schedule.served.values())
        plan, after = schedule.plan(limits, on_device=())
        oldest = {
            one.policy_id
            for tenant, tokens in schedule.served.items()
            if tokens == least
            for one in [next(one for one in schedule.waiting if one.tenant_id == tenant)]
        }
        assert oldest & {one.policy_id for one in work_of(plan)}
        schedule = after


def test_passes_run_together_and_each_step_follows_its_own() -> None:
    queue: list[tuple[int, Kind, int]] = [
        (policy, kind, 100) for policy in (0, 1, 2) for kind in ("forward_backward", "optim_step")
    ]
    schedule, _ = schedule_of(queue)
    (plan,) = drain(schedule, SchedulerLimits(max_tokens=1000, max_policies=8, device_policies=8))
    assert [one.policy_id for one in plan.batch] == ["policy_0", "policy_2", "policy_1"]
    assert [one.policy_id for one in plan.steps] == [one.policy_id for one in plan.batch]


def test_a_step_and_the_copy_behind_it_go_with_their_pass() -> None:
    kinds: tuple[Kind, ...] = ("forward_backward", "optim_step", "copy", "upkeep", "copy")
    schedule, _ = schedule_of([(0, kind, 100) for kind in kinds])
    plans = drain(schedule, SchedulerLimits(max_tokens=1000, max_policies=8, device_policies=8))
    assert [[one.kind for one in work_of(plan)] for plan in plans] == [
        ["forward_backward", "optim_step", "copy"],
        ["upkeep"],
        ["copy"],
    ]


def test_a_flood_of_one_tenant_takes_turns_with_another() -> None:
    schedule = Schedule()
    for seq in range(20):
        schedule = schedule.add(operation(0, seq, tenant=0))
    for seq in range(5):
        schedule = schedule.add(operation(1, seq, tenant=1))
    plans = drain(schedule, SchedulerLimits(max_tokens=100, max_policies=1, device_policies=8))
    first = [plan.batch[0].tenant_id for plan in plans[:10]]
    assert Counter(first) == {"tenant_0": 5, "tenant_1": 5}
    assert all(one != other for one, other in pairwise(first))


def test_idling_earns_no_credit() -> None:
    limits = SchedulerLimits(max_tokens=100, max_policies=1, device_policies=8)
    schedule = Schedule().add(operation(0, 0, tenant=0)).add(operation(0, 1, tenant=0))
    for seq in range(2, 6):
        _, schedule = schedule.plan(limits, on_device=())
        schedule = schedule.add(operation(0, seq, tenant=0))
    for seq in range(3):
        schedule = schedule.add(operation(2, seq, tenant=1))
    plans = drain(schedule, limits)
    assert {plans[0].batch[0].tenant_id, plans[1].batch[0].tenant_id} == {"tenant_0", "tenant_1"}


def test_the_longest_unused_policies_make_room() -> None:
    schedule = Schedule().add(operation(0, 0)).add(operation(1, 0))
    device = [PolicyId(f"policy_{name}") for name in ("old", "1", "new")]
    plan, _ = schedule.plan(
        SchedulerLimits(max_tokens=1000, max_policies=4, device_policies=3), on_device=device
    )
    assert plan.swap_out == ("policy_old",)


def kept_open(schedule: Schedule) -> list[tuple[str, int]]:
    return [(one.policy_id, one.seq) for one in schedule.waiting if one.is_open]


@given(items, limits)
def test_a_tenant_has_one_operation_open_and_the_device_room_for_all(
    queue: list[tuple[int, Kind, int]], limits: SchedulerLimits
) -> None:
    schedule, _ = schedule_of(queue, runs_from=100)
    runs = 0
    while schedule.waiting:
        plan, schedule = schedule.plan(limits, on_device=())
        if plan.run:
            runs += 1
            schedule = schedule.ran(plan.run, tokens=10, is_done=runs % 7 == 0)
        tenants = [one.tenant_id for one in schedule.waiting if one.is_open]
        assert len(tenants) == len(set(tenants)) <= limits.device_policies


def test_what_others_begin_comes_between_the_runs_of_a_long_pass_and_its_step_behind_the_last() -> None:
    limits = SchedulerLimits(max_tokens=100, max_policies=8, device_policies=8)
    schedule = Schedule().add(operation(0, 0, tokens=900, in_runs=True)).add(operation(0, 1, "optim_step"))
    for run in range(3):
        plan, schedule = schedule.plan(limits, on_device=())
        assert plan.run is not None
        assert kept_open(schedule) == [("policy_0", 0)]
        schedule = schedule.add(operation(1, run, tokens=10))
        schedule = schedule.ran(plan.run, tokens=50, is_done=run == 2)
        plan, schedule = schedule.plan(limits, on_device=())
        assert "policy_1" in {one.policy_id for one in work_of(plan)}
    assert [one.policy_id for one in plan.steps] == ["policy_0"]
    assert not schedule.waiting


def test_nothing_comes_between_the_runs_of_a_long_pass_that_is_computed_alone() -> None:
    limits = SchedulerLimits(max_tokens=300, max_policies=2, device_policies=2)
    long = replace(operation(0, 0, tokens=900, in_runs=True), alone=True)
    plan, schedule = Schedule().add(long).plan(limits, on_device=[])
    assert plan.run is not None
    schedule = schedule.ran(plan.run, tokens=300, is_done=False)
    schedule = schedule.add(operation(2, 1)).add(operation(3, 2))
    plan, schedule = schedule.plan(limits, on_device=[])
    assert plan.run is not None
    assert (plan.run.seq, plan.batch) == (0, ())
    schedule = schedule.ran(plan.run, tokens=300, is_done=True)
    plan, _ = schedule.plan(limits, on_device=[])
    assert [one.seq for one in plan.batch] == [1]


def test_a_long_pass_has_its_tenant_s_share_of_tokens_beside_a_flood() -> None:
    limits = SchedulerLimits(max_tokens=100, max_policies=1, device_policies=8)
    schedule = Schedule().add(operation(0, 0, tokens=900, tenant=0, in_runs=True))
    read: Counter[str] = Counter()
    for seq in range(40):
        schedule = schedule.add(operation(1, seq, tokens=100, tenant=1))
    for _ in range(30):
        plan, schedule = schedule.plan(limits, on_device=())
        if plan.run:
            schedule = schedule.ran(plan.run, tokens=20, is_done=False)
        read[plan.run.tenant_id if plan.run else plan.batch[0].tenant_id] += 20 if plan.run else 100
    assert abs(read["tenant_0"] - read["tenant_1"]) <= 100
