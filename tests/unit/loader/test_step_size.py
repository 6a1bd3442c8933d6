"""A step has as many sequences as the loader keeps up with."""

from hypothesis import given
from hypothesis import strategies as st

from services.loader.core.step_size import next_sequences


@given(st.integers(1, 64), st.integers(0, 200), st.lists(st.booleans(), max_size=200))
def test_a_step_is_within_its_bounds(least: int, room: int, behind: list[bool]) -> None:
    most = sequences = least + room
    for is_behind in behind:
        sequences = next_sequences(sequences, least=least, most=most, is_behind=is_behind)
        assert least <= sequences <= most


@given(st.integers(1, 40))
def test_steps_settle_at_what_the_loader_takes_in(taken: int) -> None:
    sequences, seen = 200, []
    for _ in range(500):
        sequences = next_sequences(sequences, least=1, most=200, is_behind=sequences > taken)
        seen.append(sequences)
    assert taken // 2 <= min(seen[100:])
    assert max(seen[100:]) <= taken + 1
