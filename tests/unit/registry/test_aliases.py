"""Alias moves against a plain undo stack."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.claims import Claim, RevisionRef
from mint_common.errors import InvalidField, PreconditionFailed
from mint_common.ids import sha256_digest
from services.registry.core.aliases import AliasEntry, plan_move, plan_rollback


def ref(number: int) -> RevisionRef:
    claim = Claim(uri=f"m{number}", sha256="0" * 64, size_bytes=1)
    return RevisionRef(digest=sha256_digest(bytes([number])), number=number, manifest=claim)


@dataclass(frozen=True)
class Back:
    """A rollback."""


ACTIONS = st.lists(st.integers(1, 4) | st.just(Back()), max_size=60)


def rolled_back(history: list[AliasEntry]) -> AliasEntry:
    current = history[-1]
    below = history[current.below - 1] if current.below else None
    return plan_rollback("prod", current, below, expected=None)


@given(actions=ACTIONS)
def test_history_behaves_like_an_undo_stack(actions: list[int | Back]) -> None:
    history: list[AliasEntry] = []
    stack: list[int] = []
    for action in actions:
        before = list(history)
        if isinstance(action, Back):
            if len(stack) < 2:
                if history:
                    with pytest.raises(InvalidField, match="no earlier revision"):
                        rolled_back(history)
                continue
            stack.pop()
            history.append(rolled_back(history))
        else:
            entry = plan_move("prod", history[-1] if history else None, ref(action), expected=None)
            if entry is None:
                assert stack[-1] == action
                continue
            stack.append(action)
            history.append(entry)
        assert history[:-1] == before
        assert history[-1].number == stack[-1]
        assert history[-1].previous == (before[-1].digest if before else None)
        assert [entry.sequence for entry in history] == list(range(1, len(history) + 1))


@given(moves=st.lists(st.integers(1, 4), min_size=1, max_size=20))
def test_repeated_rollback_reaches_the_first_target_and_stops(moves: list[int]) -> None:
    history: list[AliasEntry] = []
    for number in moves:
        entry = plan_move("prod", history[-1] if history else None, ref(number), expected=None)
        history += [entry] if entry else []
    depth = len(history)
    expected = [entry.number for entry in reversed(history[:-1])]
    walked = []
    for _ in range(depth - 1):
        history.append(rolled_back(history))
        walked.append(history[-1].number)
    assert walked == expected
    with pytest.raises(InvalidField):
        rolled_back(history)


def test_compare_and_set() -> None:
    first = plan_move("prod", None, ref(1), expected="")
    assert first is not None
    with pytest.raises(PreconditionFailed):
        plan_move("prod", None, ref(1), expected=ref(1).digest)
    with pytest.raises(PreconditionFailed):
        plan_move("prod", first, ref(2), expected="")
    with pytest.raises(PreconditionFailed, match=ref(1).digest):
        plan_move("prod", first, ref(2), expected=ref(2).digest)
    second = plan_move("prod", first, ref(2), expected=ref(1).digest)
    assert second is not None
    with pytest.raises(PreconditionFailed):
        plan_rollback("prod", second, first, expected=ref(1).digest)
    assert plan_rollback("prod", second, first, expected=ref(2).digest).number == 1


def test_move_to_where_it_points_is_no_move() -> None:
    first = plan_move("prod", None, ref(1), expected=None)
    assert plan_move("prod", first, ref(1), expected=ref(1).digest) is None
