"""Near names of refusals: few, the most like first, and none that is unlike."""

from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.fuzz import ratio

from mint_common.near import CUTOFF, near_names

names = st.text("abcdef-", max_size=63)


def test_the_most_like_comes_first() -> None:
    assert near_names("copierr", ["copy", "other", "copier"])[0] == "copier"
    assert near_names("prod", ["staging", ""]) == []


@given(names, st.lists(names, max_size=20, unique=True), st.integers(1, 5))
def test_names_are_of_the_list_and_like_enough(name: str, known: list[str], limit: int) -> None:
    found = near_names(name, known, limit=limit)
    likeness = [ratio(name, each) for each in found]
    assert set(found) <= set(known)
    assert likeness == sorted(likeness, reverse=True)
    assert len(found) == min(limit, sum(ratio(name, each) >= CUTOFF for each in known))
