"""The cold queue: one load per revision, bounded, urgent first, fair among tenants."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import Overloaded
from mint_common.ids import Digest, TenantId
from services.loader.core.cold_queue import ColdQueue, Priority, QueuedLoad

A, B, C = TenantId("a"), TenantId("b"), TenantId("c")


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def empty(*, depth: int = 9, tenant_depth: int = 9, workers: int = 1) -> ColdQueue:
    return ColdQueue(depth=depth, tenant_depth=tenant_depth, workers=workers)


def ask(
    queue: ColdQueue,
    number: int,
    priority: Priority = Priority.REQUEST,
    *,
    tenant: TenantId = A,
    size: int = 10,
    deadline: float = float("inf"),
) -> ColdQueue:
    return queue.ask(
        digest(number), priority, tenant_id=tenant, size_bytes=size, load_seconds=(), deadline=deadline
    ).queue


def drain(queue: ColdQueue) -> list[QueuedLoad]:
    loads = []
    while True:
        queue, load = queue.start()
        if load is None:
            return loads
        loads.append(load)
        queue = queue.finish(load.digest)


def test_everybody_who_wants_one_revision_shares_one_job() -> None:
    queue = empty()
    for _ in range(50):
        queue = ask(queue, 1)
    assert len(queue.waiting) == 1
    assert queue.waiting[0].waiters == 50
    queue, load = queue.start()
    assert load is not None
    assert queue.ask(digest(1), Priority.REQUEST, tenant_id=B, size_bytes=1, load_seconds=()).joined
    assert ask(queue, 1).start()[1] is None


def test_a_parked_load_has_no_worker_and_still_counts() -> None:
    queue = ask(ask(ask(empty(workers=1, tenant_depth=3), 1), 2), 3, tenant=B)
    started = []
    for _ in range(3):
        queue, load = queue.start()
        assert load is not None
        queue = queue.park(load.digest, parked=True)
        started.append(load.digest)
    assert sorted(started) == [digest(1), digest(2), digest(3)]
    assert [load.digest for load in queue.parked_in_order()] == [digest(3), digest(1), digest(2)]
    with pytest.raises(Overloaded, match="of the tenant"):
        ask(ask(queue, 4), 5)
    queue = ask(queue.park(digest(3), parked=False), 6, tenant=B)
    assert queue.start()[1] is None
    assert queue.finish(digest(3)).start()[1] is not None


def test_requests_go_before_prewarms_and_prewarms_before_prefetches() -> None:
    queue = empty()
    for number, priority in enumerate(
        (Priority.PREFETCH, Priority.PREWARM, Priority.REQUEST, Priority.REQUEST)
    ):
        queue = ask(queue, number, priority)
    assert [load.digest for load in drain(queue)] == [digest(2), digest(3), digest(1), digest(0)]


def test_a_request_makes_a_waiting_prewarm_urgent() -> None:
    queue = ask(ask(empty(), 1, Priority.PREWARM), 2)
    assert drain(ask(queue, 1))[0].digest == digest(1)


def test_a_single_load_of_one_tenant_goes_before_the_flood_of_another() -> None:
    queue = empty(depth=100, tenant_depth=90)
    for number in range(50):
        queue = ask(queue, number)
    for _ in range(5):
        queue, load = queue.start()
        assert load is not None
        queue = queue.finish(load.digest)
    order = [load.tenant_id for load in drain(ask(queue, 99, tenant=B))]
    assert order.index(B) <= 1


def test_tenants_share_by_bytes_not_by_count() -> None:
    queue = empty(depth=100, tenant_depth=90)
    for number in range(8):
        queue = ask(queue, number, size=100)
    for number in range(40):
        queue = ask(queue, 100 + number, tenant=B, size=10)
    first = drain(queue)[:22]
    weighed = Counter[TenantId]()
    for load in first:
        weighed[load.tenant_id] += load.size_bytes
    assert abs(weighed[A] - weighed[B]) <= 100


def test_who_weighed_more_than_expected_pays_later() -> None:
    queue = empty(depth=100, tenant_depth=90)
    for number in range(6):
        queue = ask(ask(queue, number), 100 + number, tenant=B)
    order: list[TenantId] = []
    while True:
        queue, load = queue.start()
        if load is None:
            break
        order.append(load.tenant_id)
        queue = queue.finish(load.digest, size_bytes=30 if load.tenant_id == A else 10)
    assert order[:4].count(A) == 1
    assert order[:8].count(B) == 6


def test_a_job_wanted_by_a_tenant_with_a_short_line_moves_into_it() -> None:
    queue = empty(depth=100, tenant_depth=90)
    for number in range(20):
        queue = ask(queue, number)
    queue = ask(queue, 19, tenant=B)
    assert digest(19) in [load.digest for load in drain(queue)[:2]]


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    queue = ask(ask(empty(depth=2), 1), 2)
    with pytest.raises(Overloaded) as refused:
        queue.ask(digest(3), Priority.REQUEST, tenant_id=A, size_bytes=1, load_seconds=(2.0, 3.0, 100.0))
    assert refused.value.retry_after_seconds == 6
    assert refused.value.retryable
    assert ask(queue, 2).load(digest(2)) is not None


def test_a_tenant_with_a_full_line_is_refused_while_another_is_not() -> None:
    queue = ask(ask(empty(tenant_depth=2), 1), 2)
    with pytest.raises(Overloaded, match="tenant"):
        ask(queue, 3)
    assert ask(queue, 3, tenant=B).load(digest(3)) is not None


def test_a_full_queue_takes_from_the_longest_line_for_the_shortest() -> None:
    queue = empty(depth=4, tenant_depth=4)
    for number in range(4):
        queue = ask(queue, number)
    admission = queue.ask(digest(9), Priority.REQUEST, tenant_id=B, size_bytes=1, load_seconds=())
    assert admission.shed == digest(3)
    queue = ask(admission.queue, 8, tenant=B)
    with pytest.raises(Overloaded):
        ask(queue, 7, tenant=B)


def test_a_full_queue_sheds_its_last_prewarm_for_a_request() -> None:
    queue = ask(ask(ask(empty(depth=3), 1, Priority.PREWARM), 2, Priority.PREWARM), 3)
    admission = queue.ask(digest(4), Priority.REQUEST, tenant_id=A, size_bytes=1, load_seconds=())
    assert admission.shed == digest(2)
    assert [load.digest for load in admission.queue.waiting] == [digest(1), digest(3), digest(4)]


def test_a_job_that_nobody_wants_any_more_is_dropped_unless_it_runs() -> None:
    queue = ask(ask(empty(), 1), 1)
    assert queue.leave(digest(1)).load(digest(1)) is not None
    gone = queue.leave(digest(1)).leave(digest(1))
    assert gone.load(digest(1)) is None
    assert not gone.served
    running, _ = queue.start()
    assert running.leave(digest(1)).leave(digest(1)).load(digest(1)) is not None
    assert running.leave(digest(7)) == running


def test_what_waits_past_its_deadline_is_dropped() -> None:
    queue = ask(ask(empty(), 1, deadline=5.0), 2, deadline=9.0)
    queue, late = queue.expire(5.0)
    assert [load.digest for load in late] == [digest(1)]
    assert [load.digest for load in queue.waiting] == [digest(2)]
    _, late = ask(queue, 2, deadline=20.0).expire(9.0)
    assert late == (), "the last who waits decides"


def test_positions_are_the_order_of_starting() -> None:
    queue = empty(depth=99, tenant_depth=99)
    for number in range(4):
        queue = ask(ask(queue, number, Priority(number % 3)), 50 + number, tenant=B, size=25)
    assert [load.digest for load in queue.in_order()] == [load.digest for load in drain(queue)]


def test_no_more_run_than_there_are_workers() -> None:
    queue = empty(workers=2)
    for number in range(4):
        queue = ask(queue, number)
    queue, _ = queue.start()
    queue, _ = queue.start()
    assert queue.start()[1] is None
    assert queue.finish(digest(0)).start()[1] is not None


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("ask"), st.integers(0, 9), st.sampled_from(Priority), st.sampled_from((A, B, C))
            ),
            st.tuples(st.sampled_from(("leave", "finish")), st.integers(0, 9), st.none(), st.none()),
            st.tuples(st.just("start"), st.none(), st.none(), st.none()),
        ),
        max_size=60,
    )
)
def test_any_history_keeps_the_bounds(
    history: list[tuple[str, int | None, Priority | None, TenantId | None]],
) -> None:
    queue = empty(depth=4, tenant_depth=3, workers=2)
    for verb, number, priority, tenant in history:
        if verb == "start":
            queue, load = queue.start()
            waiting = [*queue.waiting, load] if load else list(queue.waiting)
            assert load is None or load.priority == min(other.priority for other in waiting if other)
        elif verb == "ask":
            assert number is not None
            assert priority is not None
            assert tenant is not None
            try:
                queue = ask(queue, number, priority, tenant=tenant, size=1 + 7 * number)
            except Overloaded:
                lines = Counter(load.tenant_id for load in queue.waiting)
                assert len(queue.waiting) == 4 or lines[tenant] == 3
        else:
            assert number is not None
            queue = getattr(queue, verb)(digest(number))
        loads = [load.digest for load in (*queue.waiting, *queue.running)]
        assert len(loads) == len(set(loads))
        assert len(queue.waiting) <= 4
        assert len(queue.running) <= 2
        assert set(queue.served) == {load.tenant_id for load in (*queue.waiting, *queue.running)}


@given(
    st.lists(st.tuples(st.sampled_from((A, B, C)), st.integers(1, 50)), min_size=1, max_size=60),
    st.integers(1, 50),
)
def test_nobody_waits_longer_than_its_round(others: list[tuple[TenantId, int]], size: int) -> None:
    queue = empty(depth=100, tenant_depth=100)
    for number, (tenant, other) in enumerate(others):
        queue = ask(queue, number, tenant=tenant, size=other)
    mine = TenantId("mine")
    queue = ask(queue, 99, tenant=mine, size=size)
    before = Counter[TenantId]()
    for load in drain(queue):
        if load.tenant_id == mine:
            break
        before[load.tenant_id] += load.size_bytes
    largest = max(size, *(other for _, other in others))
    assert all(weighed <= largest for weighed in before.values())
