"""Promotion rules: when a score moves an alias by itself, or rolls it back.

A rule watches one metric of one suite and one alias. A newer revision than the live one is promoted when it
scores ``at_least`` and, where ``max_drop`` is given, not less than the live one's newest score minus that; a
live revision without a score has nothing to compare with. The live revision is rolled back when it scores
below ``roll_back_below``, which is at most ``at_least``: no score both promotes and rolls back.
"""

import math
from dataclasses import dataclass

from mint_common.catalog import EvaluationRecord, RuleRecord
from mint_common.claims import RevisionRef
from mint_common.errors import InvalidField

MOST_RULES = 100
"""How many rules a policy has at most: every score is held against all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """Point the alias at the scored revision; ``expected`` is what it points at now ("": nothing)."""

    expected: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """Roll the alias back; ``expected`` is what it points at now."""

    expected: str
    reason: str


def check_rule(rule: RuleRecord) -> None:
    """Refuse a rule that could not be followed. Raises InvalidField."""
    for field, value in (("at_least", rule.at_least), ("roll_back_below", rule.roll_back_below)):
        if value is not None and not math.isfinite(value):
            raise InvalidField(field=field, problem="must be a finite number")
    if rule.max_drop is not None and not 0 <= rule.max_drop < math.inf:
        raise InvalidField(
            field="max_drop", problem=f"must be a finite number of at least 0, got {rule.max_drop}"
        )
    if rule.roll_back_below is not None and rule.roll_back_below > rule.at_least:
        problem = (
            f"{rule.roll_back_below} is above at_least, {rule.at_least}: a promotion would roll back at once"
        )
        raise InvalidField(field="roll_back_below", problem=problem)


def too_many_rules() -> InvalidField:
    """Return the error to raise for one more rule than a policy may have."""
    return InvalidField(field="policy", problem=f"has {MOST_RULES} rules already: remove one first")


def plan_action(
    rule: RuleRecord, score: EvaluationRecord, *, live: RevisionRef | None, live_value: float | None
) -> Promote | RollBack | None:
    """Return what a score asks for, given where the alias points and that revision's newest score."""
    if (score.suite, score.metric) != (rule.suite, rule.metric):
        return None
    said = f"{score.suite} {score.metric} of revision {score.number} is {score.value:g}"
    if live is None:
        is_good = score.value >= rule.at_least
        return Promote(expected="", reason=f"{said}, at least {rule.at_least:g}") if is_good else None
    if score.digest == live.digest:
        floor = -math.inf if rule.roll_back_below is None else rule.roll_back_below
        is_bad = score.value < floor
        return RollBack(expected=live.digest, reason=f"{said}, below {floor:g}") if is_bad else None
    needed = rule.at_least
    if rule.max_drop is not None and live_value is not None:
        needed = max(needed, live_value - rule.max_drop)
    if score.number < live.number or score.value < needed:
        return None
    return Promote(expected=live.digest, reason=f"{said}, at least {needed:g}")
