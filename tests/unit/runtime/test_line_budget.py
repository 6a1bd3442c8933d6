"""A flood of refusals writes a bounded number of lines, and none is forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from mint_common.line_budget import LineBudget


@given(gaps=st.lists(st.floats(min_value=0, max_value=3), max_size=200), per_second=st.integers(1, 5))
def test_each_second_has_at_most_so_many_lines_and_the_skipped_are_counted(gaps, per_second):
    budget = LineBudget(per_second=per_second)
    now, written, told = 100.0, {}, 0
    for gap in gaps:
        now += gap
        skipped = budget.take(now)
        if skipped is not None:
            written[int(now)] = written.get(int(now), 0) + 1
            told += skipped
    assert all(count <= per_second for count in written.values())
    last = budget.take(now + 2)
    assert last is not None
    assert sum(written.values()) + told + last == len(gaps)
