"""Ranges of one memory never overlap, and what is given back is taken again."""

from hypothesis import given
from hypothesis import strategies as st

from services.loader.adapters.builder.arena import ALIGNMENT, Arena

SIZE = 4096


@given(st.lists(st.one_of(st.integers(1, 1500), st.integers(-9, -1)), max_size=40))
def test_ranges_never_overlap_and_are_used_again(steps: list[int]) -> None:
    """A positive step takes so many bytes, a negative one gives one of the ranges back."""
    arena, held = Arena(SIZE), dict[int, int]()
    for step in steps:
        if step < 0:
            if held:
                begin = sorted(held)[step % len(held)]
                del held[begin]
                arena.give_back(begin)
        else:
            begin = arena.take(step)
            if begin is None:
                assert not any(_is_free(at, step, held) for at in range(0, SIZE - step + 1, ALIGNMENT))
                continue
            assert begin % ALIGNMENT == 0
            assert begin + step <= SIZE
            assert _is_free(begin, step, held)
            held[begin] = step
    assert [arena.take(SIZE) is not None] == [not held]


def _is_free(begin: int, size: int, held: dict[int, int]) -> bool:
    return all(begin + size <= at or at + length <= begin for at, length in held.items())


def test_what_is_taken_from_the_start_is_left_alone() -> None:
    arena = Arena(SIZE, taken=[(1024, 512), (0, 256)])
    assert arena.take(768) == 256
    assert arena.take(768) == 1536
    arena.give_back(1024)
    arena.give_back(1024)
    assert arena.take(512) == 1024
