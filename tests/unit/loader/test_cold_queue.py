"""The cold queue: one load per revision, bounded, most urgent first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import Overloaded
from mint_common.ids import Digest
from services.loader.core.cold_queue import ColdQueue, Priority


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def ask(queue: ColdQueue, number: int, priority: Priority = Priority.REQUEST) -> ColdQueue:
    return queue.ask(digest(number), priority, load_seconds=()).queue


def test_everybody_who_wants_one_revision_shares_one_job() -> None:
    queue = ColdQueue(depth=2)
    for _ in range(50):
        queue = ask(queue, 1)
    assert len(queue.waiting) == 1
    assert queue.waiting[0].waiters == 50
    queue, job = queue.start()
    assert job is not None
    assert queue.ask(digest(1), Priority.REQUEST, load_seconds=()).joined
    assert ask(queue, 1).start()[1] is None


def test_requests_go_before_prewarms_and_prewarms_before_prefetches() -> None:
    queue = ColdQueue(depth=9)
    for number, priority in enumerate(
        (Priority.PREFETCH, Priority.PREWARM, Priority.REQUEST, Priority.REQUEST)
    ):
        queue = ask(queue, number, priority)
    order = []
    while True:
        queue, job = queue.start()
        if job is None:
            break
        order.append(job.digest)
        queue = queue.finish(job.digest)
    assert order == [digest(2), digest(3), digest(1), digest(0)]


def test_a_request_makes_a_waiting_prewarm_urgent() -> None:
    queue = ask(ask(ColdQueue(depth=9), 1, Priority.PREWARM), 2)
    assert ask(queue, 1).start()[1].digest == digest(1)  # type: ignore[union-attr]  # there is a job


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    queue = ask(ask(ColdQueue(depth=2), 1), 2)
    with pytest.raises(Overloaded) as refused:
        queue.ask(digest(3), Priority.REQUEST, load_seconds=(2.0, 3.0, 100.0))
    assert refused.value.retry_after_seconds == 6
    assert refused.value.retryable
    assert queue.ask(digest(2), Priority.REQUEST, load_seconds=()).joined


def test_a_full_queue_sheds_its_last_prewarm_for_a_request() -> None:
    queue = ask(ask(ask(ColdQueue(depth=3), 1, Priority.PREWARM), 2, Priority.PREWARM), 3)
    admission = queue.ask(digest(4), Priority.REQUEST, load_seconds=())
    assert admission.shed == digest(2)
    assert [job.digest for job in admission.queue.waiting] == [digest(1), digest(3), digest(4)]
    with pytest.raises(Overloaded):
        queue.ask(digest(4), Priority.PREWARM, load_seconds=())


def test_a_job_that_nobody_wants_any_more_is_dropped_unless_it_runs() -> None:
    queue = ask(ask(ColdQueue(depth=9), 1), 1)
    assert queue.leave(digest(1)).job(digest(1)) is not None
    assert queue.leave(digest(1)).leave(digest(1)).job(digest(1)) is None
    running, _ = queue.start()
    assert running.leave(digest(1)).leave(digest(1)).job(digest(1)) is not None
    assert running.leave(digest(7)) == running


def test_no_more_run_than_there_are_workers() -> None:
    queue = ColdQueue(depth=9, workers=2)
    for number in range(4):
        queue = ask(queue, number)
    queue, _ = queue.start()
    queue, _ = queue.start()
    assert queue.start()[1] is None
    assert queue.finish(digest(0)).start()[1] is not None


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.integers(0, 6), st.sampled_from(Priority)),
            st.tuples(st.sampled_from(("leave", "finish")), st.integers(0, 6), st.none()),
            st.tuples(st.just("start"), st.none(), st.none()),
        ),
        max_size=60,
    )
)
def test_any_history_keeps_the_bounds(history: list[tuple[str, int | None, Priority | None]]) -> None:
    queue = ColdQueue(depth=3, workers=2)
    for verb, number, priority in history:
        if verb == "start":
            queue, job = queue.start()
            waiting = [*queue.waiting, job] if job else list(queue.waiting)
            assert job is None or job.priority == min(other.priority for other in waiting if other)
        elif verb == "ask":
            assert number is not None
            assert priority is not None
            try:
                queue = queue.ask(digest(number), priority, load_seconds=(0.2,)).queue
            except Overloaded:
                assert len(queue.waiting) == 3
        else:
            assert number is not None
            queue = getattr(queue, verb)(digest(number))
        jobs = [job.digest for job in (*queue.waiting, *queue.running)]
        assert len(jobs) == len(set(jobs))
        assert len(queue.waiting) <= 3
        assert len(queue.running) <= 2
