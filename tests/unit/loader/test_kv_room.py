"""Whose running sequences make room in the KV cache."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.loader.core.kv_room import KvUse, largest_last, plan_room

held = st.builds(KvUse, tenant=st.sampled_from("abc"), tokens=st.integers(1, 50))


def of(tenant: str, *tokens: int) -> list[KvUse]:
    return [KvUse(tenant=tenant, tokens=count) for count in tokens]


def test_who_holds_most_makes_room_first_and_of_those_who_started_last() -> None:
    running = [*of("a", 5, 5), *of("b", 3), *of("a", 5), *of("c", 20)]
    assert largest_last(running) == [2, 0, 1, 3, 4]


def test_a_newcomer_takes_from_who_holds_more_than_a_share() -> None:
    running = of("a", 30, 30, 30)
    victims = plan_room(running, *of("b", 20), free_tokens=10, share_tokens=50)
    assert victims == [2]


def test_a_newcomer_beyond_its_share_takes_nothing() -> None:
    running = [*of("b", 40), *of("a", 55)]
    assert plan_room(running, *of("b", 20), free_tokens=5, share_tokens=50) == []


@given(st.lists(held, max_size=20), held, st.integers(0, 60))
def test_nobody_within_a_share_makes_room(running, newcomer, free) -> None:
    capacity = free + sum(each.tokens for each in running)
    tenants = len({each.tenant for each in [*running, newcomer]})
    victims = plan_room(running, newcomer, free_tokens=free, share_tokens=capacity // tenants)
    left: Counter[str] = Counter()
    for each in running:
        left[each.tenant] += each.tokens
    for at in victims:
        assert left[running[at].tenant] > capacity // tenants
        assert running[at].tenant != newcomer.tenant
        left[running[at].tenant] -= running[at].tokens
    assert not victims or free + sum(running[at].tokens for at in victims) >= newcomer.tokens


def background(tenant: str, *tokens: int) -> list[KvUse]:
    return [KvUse(tenant=tenant, tokens=count, is_background=True) for count in tokens]


def test_background_sequences_make_room_before_all_others() -> None:
    running = [*of("a", 30), *background("b", 5, 5), *of("a", 60)]
    assert largest_last(running) == [0, 3, 1, 2]
    assert plan_room(running, *of("c", 10), free_tokens=0, share_tokens=50) == [2, 1]
    assert plan_room(running, *of("c", 20), free_tokens=0, share_tokens=50) == [2, 1, 3]
    assert plan_room(running, *of("c", 10), free_tokens=0, share_tokens=0) == [2, 1], "a share of nothing"


kinds = st.builds(
    KvUse, tenant=st.sampled_from("abc"), tokens=st.integers(1, 50), is_background=st.booleans()
)


@given(st.lists(kinds, max_size=20), kinds, st.integers(0, 60), st.integers(0, 200))
def test_an_interactive_sequence_makes_room_after_all_background_ones_and_for_none(
    running, newcomer, free, share
) -> None:
    victims = [running[at] for at in plan_room(running, newcomer, free_tokens=free, share_tokens=share)]
    taken = [each for each in victims if not each.is_background]
    if newcomer.is_background:
        assert not taken
    elif taken:
        assert [each for each in victims if each.is_background] == victims[: -len(taken)]
        assert sum(each.is_background for each in victims) == sum(each.is_background for each in running)
