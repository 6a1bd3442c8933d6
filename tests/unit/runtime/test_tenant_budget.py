"""What a tenant may hold: its limit, its share of what is left, and room for a newcomer."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import Overloaded
from mint_common.tenant_budget import TenantBudget

steps = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 40), st.booleans()), max_size=80)


@given(steps, st.integers(1, 200), st.integers(1, 200), st.integers(1, 3), st.booleans())
def test_no_limit_is_exceeded_and_the_first_finds_room(taken, limit, total, share, first_fits):
    budget = TenantBudget(limit=limit, total=total, share=share, first_fits=first_fits)
    held, open_ = Counter(), []
    for holder, amount, gives_back in taken:
        if gives_back and open_:
            last, size = open_.pop()
            budget.take(last, -size)
            held[last] -= size
        elif budget.fits(holder, amount):
            is_first = not held[holder]
            budget.take(holder, amount)
            held[holder] += amount
            open_.append((holder, amount))
            if not (is_first and first_fits):
                assert held[holder] <= min(limit, share * (total - held.total()))
        else:
            left = total - held.total()
            assert left <= 0 or not (first_fits and not held[holder]), "the first always fits"
            assert held[holder] + amount > min(limit, share * (left - amount))
        assert budget.held == held.total()
        assert budget.holders == {each for each in held if held[each]}
        assert first_fits or held.total() <= total


def test_a_holder_alone_has_three_quarters_and_each_of_two_three_sevenths():
    budget = TenantBudget(total=512)
    while budget.fits("a"):
        budget.take("a")
    assert budget.of("a") == 384
    for _ in range(400):
        for holder in ("a", "b"):
            budget.take("a", -1) if budget.of("a") > budget.of("b") else None
            if budget.fits(holder):
                budget.take(holder)
    assert abs(budget.of("a") - 512 * 3 / 7) <= 2
    assert abs(budget.of("b") - 512 * 3 / 7) <= 2


def test_what_is_refused_counts_for_nothing_and_says_how_much_is_held():
    budget = TenantBudget(what="the queue", limit=2, retry_after_seconds=3)
    with budget.counted("a"), budget.counted("a"):
        with pytest.raises(Overloaded, match=r"the queue is full \(2 waiting\): try again in 3 s"):
            budget.check("a")
        with budget.counted("b", 100):
            assert budget.largest == "b"
            assert budget.held == 102
    assert budget.held == 0
    assert not budget.holders


def test_what_fails_gives_back():
    budget = TenantBudget(limit=1)
    with pytest.raises(KeyError), budget.counted("a"):
        raise KeyError
    assert budget.fits("a")
