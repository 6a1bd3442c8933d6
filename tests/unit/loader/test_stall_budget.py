"""The stall budget: activation takes its share of the engine, and no more."""

from hypothesis import given
from hypothesis import strategies as st

from services.loader.core.stall_budget import StallBudget, precedence_seconds


def test_a_full_budget_starts_at_once_and_a_spent_one_waits_for_its_share() -> None:
    budget = StallBudget.full(share=0.1, burst_ms=2.0, now=0.0)
    assert budget.wait_seconds(0.0) == 0.0
    spent = budget.spend(4.0, now=0.0)
    assert spent.wait_seconds(0.0) == 0.02
    assert spent.wait_seconds(0.02) == 0.0


def test_time_in_which_nothing_happens_is_not_saved_beyond_the_burst() -> None:
    budget = StallBudget.full(share=0.1, burst_ms=2.0, now=0.0).spend(5.0, now=1000.0)
    assert budget.level_ms == -3.0


@given(
    st.floats(0.01, 1.0),
    st.floats(0.0, 20.0),
    st.lists(st.tuples(st.floats(0.0, 0.5), st.floats(0.0, 10.0)), min_size=1, max_size=60),
)
def test_any_span_is_stalled_for_its_share_the_burst_and_one_slice_at_most(
    share: float, burst_ms: float, tries: list[tuple[float, float]]
) -> None:
    now, budget = 0.0, StallBudget.full(share=share, burst_ms=burst_ms, now=0.0)
    stalls: list[tuple[float, float]] = []
    for pause, stall_ms in tries:
        now += pause + budget.wait_seconds(now + pause)
        budget = budget.spend(stall_ms, now=now)
        stalls.append((now, stall_ms))
    for first, (begin, _) in enumerate(stalls):
        for last in range(first, len(stalls)):
            end, _ = stalls[last]
            total = sum(stall for _, stall in stalls[first : last + 1])
            largest = max(stall for _, stall in stalls[first : last + 1])
            assert total <= burst_ms + 1000 * share * (end - begin) + largest + 0.1


@given(
    st.integers(0, 5), st.integers(0, 5), st.floats(0.0, 100.0), st.floats(0.0, 100.0), st.floats(0.0, 1.0)
)
def test_an_adapter_gives_way_to_first_tokens_for_a_bounded_time_and_only_to_warm_ones(
    first_tokens: int, warm: int, since: float, later: float, most: float
) -> None:
    now = since + later
    seconds = precedence_seconds(first_tokens=first_tokens, warm=warm, since=since, now=now, max_seconds=most)
    assert 0.0 <= seconds <= most + 1e-9
    assert now + seconds <= max(now, since + most) + 1e-9
    if not first_tokens or not warm:
        assert seconds == 0.0
