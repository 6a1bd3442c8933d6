"""When a score moves an alias: every case of a rule, and what no rule ever does."""

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.catalog import EvaluationRecord, RuleRecord
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import AlreadyExists, InvalidField
from mint_common.ids import EvaluationId, sha256_digest
from services.registry.core.aliases import AliasEntry, plan_move, plan_rollback
from services.registry.core.rules import (
    PersonMove,
    Promote,
    RollBack,
    RuleRefused,
    ScoreRange,
    check_rule,
    check_rule_move,
    cooldown_end,
    plan_action,
    preferred,
    refuse_equal,
    rule_warnings,
    withdrawal,
)

RULE = RuleRecord(
    rule_id="rule_1",
    alias="prod",
    suite="counting",
    metric="accuracy",
    at_least=0.8,
    max_drop=0.05,
    roll_back_below=0.6,
    actor="ci",
    created_at=0.0,
)


def revision(number: int) -> RevisionRef:
    claim = Claim(uri="m", sha256="0" * 64, size_bytes=1)
    return RevisionRef(digest=sha256_digest(str(number).encode()), number=number, manifest=claim)


def score(
    number: int, value: float, *, suite: str = "counting", metric: str = "accuracy"
) -> EvaluationRecord:
    return EvaluationRecord(
        evaluation_id=EvaluationId(f"eval_{number}"),
        digest=revision(number).digest,
        number=number,
        suite=suite,
        metric=metric,
        value=value,
        n=10,
        actor="hook",
        created_at=0.0,
    )


def verdict(
    given_score: EvaluationRecord, *, live: int | None = 3, live_value: float | None = None
) -> str | None:
    pointed = None if live is None else revision(live)
    action = plan_action(RULE, given_score, live=pointed, live_value=live_value)
    if action is not None:
        assert action.expected == ("" if pointed is None else pointed.digest)
        assert str(given_score.number) in action.reason
    return None if action is None else type(action).__name__


def test_newer_revision_is_promoted_from_the_threshold_on() -> None:
    assert verdict(score(4, 0.8)) == "Promote"
    assert verdict(score(4, 0.79)) is None
    assert verdict(score(1, 0.8), live=None) == "Promote"
    assert verdict(score(1, 0.7), live=None) is None


def test_newer_revision_may_be_a_little_worse_than_the_live_one_and_no_more() -> None:
    assert verdict(score(4, 0.90), live_value=0.94) == "Promote"
    assert verdict(score(4, 0.88), live_value=0.94) is None


def test_older_revision_is_never_promoted() -> None:
    assert verdict(score(2, 1.0)) is None


def test_live_revision_is_rolled_back_below_the_floor() -> None:
    assert verdict(score(3, 0.59)) == "RollBack"
    assert verdict(score(3, 0.6)) is None
    assert verdict(score(3, 1.0)) is None
    assert (
        plan_action(replace(RULE, roll_back_below=None), score(3, -9.0), live=revision(3), live_value=0)
        is None
    )


def test_score_of_another_suite_or_metric_says_nothing() -> None:
    assert verdict(score(4, 1.0, suite="other")) is None
    assert verdict(score(3, 0.0, metric="other")) is None


VALUES = st.floats(-2, 2)


@given(VALUES, VALUES, st.integers(1, 6), st.none() | st.integers(1, 6))
def test_score_that_was_acted_upon_asks_for_nothing_more(
    value: float, live_value: float, number: int, live: int | None
) -> None:
    pointed = None if live is None else revision(live)
    action = plan_action(RULE, score(number, value), live=pointed, live_value=live_value)
    if isinstance(action, Promote):
        assert plan_action(RULE, score(number, value), live=revision(number), live_value=value) is None
    if isinstance(action, RollBack) and number > 1:
        again = plan_action(RULE, score(number, value), live=revision(number - 1), live_value=live_value)
        assert again is None


LOSS = replace(
    RULE, at_least=None, max_drop=None, roll_back_below=None, at_most=1.5, max_rise=0.1, roll_back_above=2.0
)
"""A rule of a score that is better when smaller."""


def test_a_smaller_loss_is_promoted_and_a_larger_one_rolled_back() -> None:
    def asked(number: int, value: float, live_value: float | None = None) -> object:
        return plan_action(LOSS, score(number, value), live=revision(3), live_value=live_value)

    assert isinstance(asked(4, 1.5), Promote)
    assert asked(4, 1.6) is None
    assert isinstance(asked(4, 1.25, 1.2), Promote)
    assert asked(4, 1.4, 1.2) is None
    assert asked(3, 2.0) is None
    action = asked(3, 2.5)
    assert isinstance(action, RollBack)
    assert action.reason == "counting accuracy of revision 3 is 2.5, above 2"
    promoted = asked(4, 1.0)
    assert isinstance(promoted, Promote)
    assert promoted.reason == "counting accuracy of revision 4 is 1, at most 1.5"


@given(
    limit=st.floats(-2, 2),
    drop=st.none() | st.floats(0, 1),
    below=st.none() | st.floats(0, 2),
    choose=st.sampled_from(["newest", "best"]),
    scores=st.lists(st.tuples(st.integers(1, 6), VALUES), min_size=2, max_size=2),
    live=st.none() | st.integers(1, 6),
    live_value=st.none() | VALUES,
)
def test_a_rule_of_a_loss_decides_as_one_of_the_score_with_its_sign_changed(
    *, limit, drop, below, choose, scores, live, live_value
) -> None:
    drop = None if choose == "best" else drop
    floor = None if below is None else limit - below
    larger = replace(RULE, at_least=limit, max_drop=drop, roll_back_below=floor, choose=choose)
    smaller = replace(
        LOSS,
        at_most=-limit,
        max_rise=drop,
        roll_back_above=None if floor is None else -floor,
        choose=choose,
    )
    for rule in (larger, smaller):
        check_rule(rule)
    pointed = None if live is None else revision(live)
    mirrored = None if live_value is None else -live_value
    for number, value in scores:
        one = plan_action(larger, score(number, value), live=pointed, live_value=live_value)
        other = plan_action(smaller, score(number, -value), live=pointed, live_value=mirrored)
        assert type(one) is type(other)
    (first, value), (second, other_value) = scores
    kept = preferred(larger, score(first, value), score(second, other_value))
    kept_loss = preferred(smaller, score(first, -value), score(second, -other_value))
    assert (kept.number, kept.value) == (kept_loss.number, -kept_loss.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"at_least": None}, "at_least"),
        ({"at_most": 1.0}, "at_least"),
        ({"max_rise": 0.1}, "max_rise"),
        ({"roll_back_above": 0.9}, "roll_back_above"),
        ({"at_least": float("nan")}, "at_least"),
        ({"roll_back_below": float("inf")}, "roll_back_below"),
        ({"roll_back_below": 0.81}, "roll_back_below"),
        ({"max_drop": -0.1}, "max_drop"),
        ({"choose": "best"}, "max_drop"),
        ({"cooldown_seconds": -1.0}, "cooldown_seconds"),
        ({"cooldown_seconds": float("nan")}, "cooldown_seconds"),
    ],
)
def test_rule_that_makes_no_sense_is_refused(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        check_rule(replace(RULE, **changes))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_drop": 0.1}, "max_drop"),
        ({"roll_back_below": 0.1}, "roll_back_below"),
        ({"at_most": float("inf")}, "at_most"),
        ({"roll_back_above": 1.4}, "roll_back_above"),
        ({"max_rise": -0.1}, "max_rise"),
        ({"choose": "best"}, "max_rise"),
    ],
)
def test_rule_of_a_loss_that_makes_no_sense_is_refused(changes: dict[str, object], field: str) -> None:
    check_rule(LOSS)
    with pytest.raises(InvalidField) as refused:
        check_rule(replace(LOSS, **changes))
    assert refused.value.field == field


BEST = replace(RULE, choose="best", max_drop=None)


def test_best_takes_whatever_scores_above_the_live_one_of_any_age() -> None:
    def asked(number: int, value: float, live_value: float | None) -> bool:
        action = plan_action(BEST, score(number, value), live=revision(3), live_value=live_value)
        return isinstance(action, Promote)

    assert asked(4, 0.9, 0.85)
    assert asked(2, 0.9, 0.85)
    assert not asked(4, 0.85, 0.85)
    assert not asked(4, 0.7, 0.6)
    assert asked(4, 0.9, None)
    assert not asked(2, 0.9, None)


def test_paused_rule_asks_for_nothing() -> None:
    paused = replace(RULE, paused=True)
    assert plan_action(paused, score(4, 1.0), live=revision(3), live_value=0.0) is None
    assert plan_action(paused, score(3, 0.0), live=revision(3), live_value=0.0) is None


def test_promotion_waits_for_the_cooldown_and_a_rollback_does_not() -> None:
    rule = replace(RULE, cooldown_seconds=60.0)
    assert cooldown_end(rule, Promote(expected="", reason=""), moved_at=100.0) == 160.0
    assert cooldown_end(rule, Promote(expected="", reason=""), moved_at=None) < 0
    assert cooldown_end(rule, RollBack(expected="", reason=""), moved_at=100.0) < 0


def test_one_score_waits_for_the_end_of_a_cooldown() -> None:
    assert preferred(RULE, score(4, 0.9), score(5, 0.8)).number == 5
    assert preferred(BEST, score(4, 0.9), score(5, 0.8)).number == 4
    assert preferred(BEST, score(4, 0.7), score(4, 0.9)).value == 0.7


@pytest.mark.parametrize(
    ("seen", "is_frozen", "said"),
    [
        (None, False, ["no revision of this policy has a score of 'accuracy' in suite 'counting' yet"]),
        (ScoreRange(low=0.1, high=0.7), False, ["above every score so far, the highest is 0.7"]),
        (ScoreRange(low=0.8, high=0.9), False, ["every score so far is at_least 0.8"]),
        (ScoreRange(low=0.1, high=0.9), False, []),
        (ScoreRange(low=0.1, high=0.9), True, ["alias 'prod' is frozen"]),
        (None, True, ["alias 'prod' is frozen", "no revision"]),
    ],
)
def test_new_rule_says_why_it_may_never_move_its_alias(
    seen: ScoreRange | None, is_frozen: bool, said: list[str]
) -> None:
    warnings = rule_warnings(RULE, seen, is_frozen=is_frozen)
    assert len(warnings) == len(said)
    assert all(part in warning for part, warning in zip(said, warnings, strict=True))


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (ScoreRange(low=1.6, high=3.0), ["at_most 1.5 is below every score so far, the lowest is 1.6"]),
        (ScoreRange(low=0.4, high=1.5), ["every score so far is at_most 1.5, the highest is 1.5"]),
        (ScoreRange(low=0.4, high=1.6), []),
    ],
)
def test_new_rule_of_a_loss_warns_as_well(seen: ScoreRange, said: list[str]) -> None:
    assert list(rule_warnings(LOSS, seen, is_frozen=False)) == said


class History:
    """An alias that people and one rule move, as the store keeps it."""

    def __init__(self) -> None:
        self.entries: list[AliasEntry] = []
        self.actors: list[str] = []
        self.is_frozen = False

    @property
    def live(self) -> int | None:
        return self.entries[-1].number if self.entries else None

    def person_moves(self, number: int) -> list[PersonMove]:
        digest = revision(number).digest
        return [
            PersonMove(
                digest=entry.digest,
                is_back=entry.below != entry.sequence - 1 or entry.number < number,
                actor=actor,
                reason="",
            )
            for entry, actor in reversed(list(zip(self.entries, self.actors, strict=True)))
            if actor == "ann" and digest in (entry.digest, entry.previous)
        ]

    def append(self, entry: AliasEntry | None, actor: str) -> None:
        if entry is None:
            return
        if actor != "ann":
            moves = self.person_moves(entry.number)
            check_rule_move("prod", entry.number, entry.digest, moves, is_frozen=self.is_frozen)
        self.entries.append(entry)
        self.actors.append(actor)

    def move(self, number: int, actor: str) -> None:
        current = self.entries[-1] if self.entries else None
        self.append(plan_move("prod", current, revision(number), expected=None), actor)

    def roll_back(self, actor: str) -> None:
        below = self.entries[-1].below
        self.append(
            plan_rollback(
                "prod", self.entries[-1], self.entries[below - 1] if below else None, expected=None
            ),
            actor,
        )

    def act(self, rule: RuleRecord, kind: str, argument: object) -> None:
        """Do one thing of a random history. Raises InvalidField, RuleRefused."""
        if kind == "move":
            self.move(argument, "ann")
        elif kind == "roll back" and self.entries:
            self.roll_back("ann")
        elif kind == "freeze":
            self.is_frozen = argument
        elif kind == "score":
            self.follow(rule, *argument)

    def follow(self, rule: RuleRecord, number: int, value: float, live_value: float) -> None:
        """Do what the rule asks for after a score."""
        live = None if self.live is None else revision(self.live)
        action = plan_action(rule, score(number, value), live=live, live_value=live_value)
        if isinstance(action, Promote):
            self.move(number, "rule:rule_1")
        elif isinstance(action, RollBack):
            self.roll_back("rule:rule_1")


NUMBERS = st.integers(1, 5)
ACTIONS = st.one_of(
    st.tuples(st.just("move"), NUMBERS),
    st.tuples(st.just("roll back"), st.none()),
    st.tuples(st.just("freeze"), st.booleans()),
    st.tuples(st.just("score"), st.tuples(NUMBERS, VALUES, VALUES)),
)


@given(st.sampled_from([RULE, BEST]), st.lists(ACTIONS, max_size=30))
def test_no_rule_undoes_what_a_person_did(rule: RuleRecord, actions: list[tuple[str, object]]) -> None:
    history, withdrawn = History(), set[int]()
    for kind, argument in actions:
        before, count = history.live, len(history.entries)
        with suppress(InvalidField, RuleRefused):
            history.act(rule, kind, argument)
        if len(history.entries) == count:
            continue
        if kind == "score":
            assert not history.is_frozen
            assert history.live not in withdrawn
            continue
        if before is not None and (kind == "roll back" or history.live < before):
            withdrawn.add(before)
        withdrawn.discard(history.live)
    for number in range(1, 6):
        found = withdrawal(revision(number).digest, history.person_moves(number))
        assert (found is not None) == (number in withdrawn)


@pytest.mark.parametrize(
    "change",
    [{"alias": "next"}, {"at_least": 0.9}, {"max_drop": None}, {"choose": "best"}, {"suite": "other"}],
)
def test_rule_that_asks_for_the_same_as_another_is_refused(change):
    added = replace(RULE, rule_id="rule_2", actor="ann", created_at=9.0)
    for other in (RULE, replace(RULE, paused=True)):
        with pytest.raises(AlreadyExists, match="rule_1"):
            refuse_equal(added, [replace(RULE, rule_id="rule_0", at_least=0.1, roll_back_below=None), other])
    refuse_equal(replace(added, **change), [RULE])
