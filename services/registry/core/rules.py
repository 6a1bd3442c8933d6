"""Promotion rules: when a score moves an alias by itself, or rolls it back.

A rule watches one metric of one suite and one alias. It promotes a revision that scores ``at_least`` and,
where ``max_drop`` is given, not less than the live one's newest score minus that. With ``choose`` newest the
revision must be newer than the live one; with best it must score above it, or be newer if the live one has no
score. The live revision is rolled back when it scores below ``roll_back_below``, which is at most
``at_least``: no score both promotes and rolls back. A promotion waits for ``cooldown_seconds`` after the
alias's last move.

People come first: a rule neither moves a frozen alias nor points an alias at a revision that a person moved
it back from, until a person points it there again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mint_common.catalog import EvaluationRecord, RuleRecord
from mint_common.claims import RevisionRef
from mint_common.errors import AlreadyExists, InvalidField, MintError
from mint_common.ids import Digest

MOST_RULES = 100
"""How many rules a policy has at most: every score is checked against all of them."""
MOST_COOLDOWN_SECONDS = 30 * 86_400.0


class RuleRefused(MintError):
    """A rule may not move alias {alias!r}: {problem}."""

    code = "rule_refused"
    http_status = 403


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonMove:
    """A person's move of an alias to ``digest``; ``is_back``: by a rollback, or to an older revision."""

    digest: Digest
    is_back: bool
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRange:
    """The lowest and highest score so far of a metric in a suite, over a policy's revisions."""

    low: float
    high: float


def check_rule(rule: RuleRecord) -> None:
    """Refuse a rule that could not be followed. Raises InvalidField."""
    for field, value in (("at_least", rule.at_least), ("roll_back_below", rule.roll_back_below)):
        if value is not None and not math.isfinite(value):
            raise InvalidField(field=field, problem="must be a finite number")
    if rule.max_drop is not None and not 0 <= rule.max_drop < math.inf:
        raise InvalidField(
            field="max_drop", problem=f"must be a finite number of at least 0, got {rule.max_drop}"
        )
    if rule.max_drop is not None and rule.choose == "best":
        raise InvalidField(field="max_drop", problem="has no meaning with choose best, which allows no drop")
    if rule.roll_back_below is not None and rule.roll_back_below > rule.at_least:
        problem = (
            f"{rule.roll_back_below} is above at_least, {rule.at_least}: a promotion would roll back at once"
        )
        raise InvalidField(field="roll_back_below", problem=problem)
    if not 0 <= rule.cooldown_seconds <= MOST_COOLDOWN_SECONDS:
        problem = f"must be between 0 and {MOST_COOLDOWN_SECONDS:g}, got {rule.cooldown_seconds}"
        raise InvalidField(field="cooldown_seconds", problem=problem)


def refuse_equal(rule: RuleRecord, others: Sequence[RuleRecord]) -> None:
    """Refuse a rule that asks for what one of its policy asks for already. Raises AlreadyExists."""
    for other in others:
        same = replace(other, rule_id=rule.rule_id, actor=rule.actor, created_at=rule.created_at)
        if replace(same, paused=rule.paused, warnings=rule.warnings) == rule:
            raise AlreadyExists(kind="rule with these conditions", name=other.rule_id)


def too_many_rules() -> InvalidField:
    """Return the error to raise for one more rule than a policy may have."""
    return InvalidField(field="policy", problem=f"has {MOST_RULES} rules already: remove one first")


def rule_warnings(rule: RuleRecord, seen: ScoreRange | None, *, is_frozen: bool) -> tuple[str, ...]:
    """Return why a new rule may never move its alias; ``seen`` is the range of the scores that it watches."""
    warnings = []
    if is_frozen:
        warnings.append(f"alias {rule.alias!r} is frozen: rules do not move it until it is unfrozen")
    if seen is None:
        warnings.append(
            f"no revision of this policy has a score of {rule.metric!r} in suite {rule.suite!r} yet:"
            " the rule does nothing until one is recorded"
        )
    elif rule.at_least > seen.high:
        warnings.append(
            f"at_least {rule.at_least:g} is above every score so far, the highest is {seen.high:g}"
        )
    elif rule.at_least <= seen.low:
        warnings.append(f"every score so far is at_least {rule.at_least:g}, the lowest is {seen.low:g}")
    return tuple(warnings)


def plan_action(
    rule: RuleRecord, score: EvaluationRecord, *, live: RevisionRef | None, live_value: float | None
) -> Promote | RollBack | None:
    """Return what a score asks for, given where the alias points and that revision's newest score."""
    if rule.paused or (score.suite, score.metric) != (rule.suite, rule.metric):
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
    if score.value < needed or not _is_ahead(rule, score, live, live_value):
        return None
    if rule.choose == "best" and live_value is not None:
        return Promote(expected=live.digest, reason=f"{said}, above {live_value:g} of revision {live.number}")
    return Promote(expected=live.digest, reason=f"{said}, at least {needed:g}")


def _is_ahead(rule: RuleRecord, score: EvaluationRecord, live: RevisionRef, live_value: float | None) -> bool:
    if rule.choose == "best" and live_value is not None:
        return score.value > live_value
    return score.number >= live.number


def cooldown_end(rule: RuleRecord, action: Promote | RollBack, *, moved_at: float | None) -> float:
    """Return when an action may be taken, given the alias's last move; a rollback never waits."""
    if moved_at is None or isinstance(action, RollBack):
        return -math.inf
    return moved_at + rule.cooldown_seconds


def preferred(rule: RuleRecord, score: EvaluationRecord, waiting: EvaluationRecord) -> EvaluationRecord:
    """Return which of two scores that ask for a promotion waits for the end of the cooldown."""
    if score.digest == waiting.digest:
        return score
    if rule.choose == "best":
        return max((waiting, score), key=lambda each: each.value)
    return max((waiting, score), key=lambda each: each.number)


def withdrawal(revision: Digest, moves: Sequence[PersonMove]) -> PersonMove | None:
    """Return the move by which a person withdrew a revision from an alias, None if rules may point at it.

    ``moves`` are people's moves of the alias to or from the revision, newest first.
    """
    for move in moves:
        if move.digest == revision:
            return None
        if move.is_back:
            return move
    return None


def check_rule_move(
    alias: str, number: int, digest: Digest, moves: Sequence[PersonMove], *, is_frozen: bool
) -> None:
    """Refuse a rule's move that a person has ruled out; ``moves`` as for `withdrawal`. Raises RuleRefused."""
    if is_frozen:
        raise RuleRefused(alias=alias, problem="it is frozen")
    withdrawn = withdrawal(digest, moves)
    if withdrawn is not None:
        why = f" ({withdrawn.reason})" if withdrawn.reason else ""
        problem = (
            f"{withdrawn.actor} moved it back from revision {number}{why}; point it there again to allow it"
        )
        raise RuleRefused(alias=alias, problem=problem)
