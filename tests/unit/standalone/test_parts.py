"""Start and stop orders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from services.standalone.core.lifecycle import PartState, PartStatus
from services.standalone.core.parts import StackPart, may_start, start_levels, stop_levels


@st.composite
def stacks(draw: st.DrawFn) -> list[StackPart]:
    """Draw parts without circles: each needs only parts drawn before it, then the order is shuffled."""
    names = draw(st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, max_size=8))
    parts = []
    for index, name in enumerate(names):
        needs = draw(st.lists(st.sampled_from(names[:index]), unique=True)) if index else []
        parts.append(StackPart(name=name, needs=tuple(needs)))
    return draw(st.permutations(parts))


@given(stacks())
def test_every_part_starts_after_what_it_needs_and_as_early_as_it_can(parts: list[StackPart]) -> None:
    levels = start_levels(parts)
    level_of = {name: index for index, level in enumerate(levels) for name in level}
    assert sorted(level_of) == sorted(part.name for part in parts)
    for part in parts:
        assert level_of[part.name] == max((level_of[need] + 1 for need in part.needs), default=0)


@given(stacks())
def test_nothing_stops_before_those_that_need_it(parts: list[StackPart]) -> None:
    order = [name for level in stop_levels(parts) for name in level]
    for part in parts:
        assert all(order.index(part.name) < order.index(need) for need in part.needs)


def test_a_part_starts_without_what_it_calls_and_stops_before_it() -> None:
    parts = [StackPart(name="gateway", needs=("registry",), calls=("loader",)), StackPart(name="loader")]
    parts.append(StackPart(name="registry"))
    assert set(start_levels(parts)[0]) == {"loader", "registry"}
    assert stop_levels(parts)[0] == ("gateway",)


def test_a_circle_is_refused() -> None:
    with pytest.raises(InvalidField, match="cycle"):
        start_levels([StackPart(name="a", needs=("b",)), StackPart(name="b", needs=("a",))])


def test_an_unknown_need_is_refused_by_name() -> None:
    with pytest.raises(InvalidField, match="'postgres', which is not a part"):
        start_levels([StackPart(name="registry", needs=("postgres",))])


def test_a_name_used_twice_is_refused() -> None:
    with pytest.raises(InvalidField, match="two parts"):
        start_levels([StackPart(name="a"), StackPart(name="a")])


def test_a_part_may_start_only_when_all_its_needs_are_ready() -> None:
    part = StackPart(name="gateway", needs=("registry", "rollout"))
    ready, restarting = (PartStatus(state=state) for state in (PartState.READY, PartState.RESTARTING))
    assert not may_start(part, {"registry": ready, "rollout": restarting})
    assert may_start(part, {"registry": ready, "rollout": ready})


def test_a_part_that_follows_another_waits_for_its_start_and_not_for_its_later_faults() -> None:
    trainer = StackPart(name="trainer", follows=("loader",))
    for state in PartState:
        assert not may_start(trainer, {"loader": PartStatus(state=state)}), "never ready yet"
        known = {"loader": PartStatus(state=state, was_ready=True)}
        assert may_start(trainer, known) is (state is not PartState.STARTING)
    assert stop_levels([trainer, StackPart(name="loader")]) == (("trainer", "loader"),)
