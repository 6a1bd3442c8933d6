"""Promotion rules: when a score moves an alias by itself, or rolls it back.

A rule watches one metric of one suite and one alias. It promotes a revision that scores ``at_least`` and,
where ``max_drop`` is given, not less than the live one's newest score minus that. With ``choose`` newest the
revision must be newer than the live one; with best it must score better, or be newer if the live one has no
score. The live revision is rolled back when it scores below ``roll_back_below``, which is at most
``at_least``: no score both promotes and rolls back. A promotion waits for ``cooldown_seconds`` after the
alias's last move.

Of a score that is better when smaller a rule has ``at_most``, ``max_rise`` and ``roll_back_above``: the same
mirrored at zero, and decided so (`rule_bounds`).

People come first: a rule neither moves a frozen alias nor points an alias at a revision that a person moved
it back from, until a person points it there again. The same holds for a job that promotes its result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mint_common.catalog import EvaluationRecord, RuleRecord
from mint_common.claims import RevisionRef
from mint_common.errors import AlreadyExists, InvalidField, MintError
from mint_common.ids import Digest, EvaluationId, PolicyId, TenantId
from services.registry.core.rule_bounds import LARGER, SMALLER, bounds_of, words_of

MAX_RULES = 100
"""Maximum rules of a policy: every score is checked against all of them."""
MAX_COOLDOWN_SECONDS = 30 * 86_400.0


class RuleRefused(MintError):
    """Only a person may move alias {alias!r} so: {problem}."""

    code = "rule_refused"
    http_status = 403


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRule:
    """A rule whose cooldown has ended, and the score that waited for it."""

    tenant_id: TenantId
    policy_id: PolicyId
    rule: RuleRecord
    evaluation_id: EvaluationId


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """Point the alias at the scored revision; ``expected`` is its current target ("": none)."""

    expected: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """Roll the alias back; ``expected`` is its current target."""

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
    if (rule.at_least is None) == (rule.at_most is None):
        problem = "a rule has at_least, where larger scores are better, or at_most, where smaller ones are"
        raise InvalidField(field="at_least", problem=problem)
    bounds, words = bounds_of(rule), words_of(rule)
    other = LARGER if words is SMALLER else SMALLER
    for field in (other.drop, other.floor):
        if getattr(rule, field) is not None:
            raise InvalidField(field=field, problem=f"goes with {other.least}, the rule has {words.least}")
    for field in (words.least, words.floor):
        value = getattr(rule, field)
        if value is not None and not math.isfinite(value):
            raise InvalidField(field=field, problem="must be a finite number")
    if bounds.drop is not None and not 0 <= bounds.drop < math.inf:
        problem = f"must be a finite number of at least 0, got {bounds.drop}"
        raise InvalidField(field=words.drop, problem=problem)
    if bounds.drop is not None and rule.choose == "best":
        problem = "has no meaning with choose best, which takes better ones alone"
        raise InvalidField(field=words.drop, problem=problem)
    if bounds.floor > bounds.least:
        problem = (
            f"{bounds.flipped(bounds.floor)} is {words.better} {words.least}, {bounds.flipped(bounds.least)}:"
            " a promotion would roll back at once"
        )
        raise InvalidField(field=words.floor, problem=problem)
    if not 0 <= rule.cooldown_seconds <= MAX_COOLDOWN_SECONDS:
        problem = f"must be between 0 and {MAX_COOLDOWN_SECONDS:g}, got {rule.cooldown_seconds}"
        raise InvalidField(field="cooldown_seconds", problem=problem)


def refuse_equal(rule: RuleRecord, others: Sequence[RuleRecord]) -> None:
    """Refuse a rule equal to an existing one of its policy. Raises AlreadyExists."""
    for other in others:
        same = replace(other, rule_id=rule.rule_id, actor=rule.actor, created_at=rule.created_at)
        if replace(same, paused=rule.paused, warnings=rule.warnings) == rule:
            raise AlreadyExists(kind="rule with these conditions", name=other.rule_id)


def too_many_rules() -> InvalidField:
    """Return the error to raise for one more rule than a policy may have."""
    return InvalidField(field="policy", problem=f"has {MAX_RULES} rules already: remove one first")


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
    else:
        warnings += _limit_warnings(rule, seen)
    return tuple(warnings)


def _limit_warnings(rule: RuleRecord, seen: ScoreRange) -> list[str]:
    bounds, words = bounds_of(rule), words_of(rule)
    ends = (("lowest", seen.low), ("highest", seen.high))
    (worst_name, worst), (best_name, best) = ends if words is LARGER else reversed(ends)
    limit = bounds.flipped(bounds.least)
    if bounds.least > bounds.flipped(best):
        return [f"{words.least} {limit:g} is {words.better} every score so far, the {best_name} is {best:g}"]
    if bounds.least <= bounds.flipped(worst):
        return [f"every score so far is {words.least} {limit:g}, the {worst_name} is {worst:g}"]
    return []


def plan_action(
    rule: RuleRecord, score: EvaluationRecord, *, live: RevisionRef | None, live_value: float | None
) -> Promote | RollBack | None:
    """Return the action for a score, given the alias's target and that revision's newest score."""
    if rule.paused or (score.suite, score.metric) != (rule.suite, rule.metric):
        return None
    bounds, words = bounds_of(rule), words_of(rule)
    value = bounds.flipped(score.value)
    said = f"{score.suite} {score.metric} of revision {score.number} is {score.value:g}"
    if live is None:
        is_good = value >= bounds.least
        reason = f"{said}, {words.limit} {bounds.flipped(bounds.least):g}"
        return Promote(expected="", reason=reason) if is_good else None
    if score.digest == live.digest:
        is_bad = value < bounds.floor
        reason = f"{said}, {words.worse} {bounds.flipped(bounds.floor):g}"
        return RollBack(expected=live.digest, reason=reason) if is_bad else None
    live_at = None if live_value is None else bounds.flipped(live_value)
    needed = bounds.least
    if bounds.drop is not None and live_at is not None:
        needed = max(needed, live_at - bounds.drop)
    if value < needed or not _is_ahead(rule, score.number, value, live, live_at):
        return None
    if rule.choose == "best" and live_value is not None:
        reason = f"{said}, {words.better} {live_value:g} of revision {live.number}"
        return Promote(expected=live.digest, reason=reason)
    return Promote(expected=live.digest, reason=f"{said}, {words.limit} {bounds.flipped(needed):g}")


def _is_ahead(
    rule: RuleRecord, number: int, value: float, live: RevisionRef, live_value: float | None
) -> bool:
    """Return whether a revision comes after the live one; values as `Bounds` has them."""
    if rule.choose == "best" and live_value is not None:
        return value > live_value
    return number >= live.number


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
        bounds = bounds_of(rule)
        return max((waiting, score), key=lambda each: bounds.flipped(each.value))
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


def moved_since(alias: str, newer: str) -> RuleRefused:
    """Return the error for a job's move that comes late: ``newer`` has moved the alias since the job ended.

    That is a person, or a rule or a job that chose a later revision.
    """
    return RuleRefused(alias=alias, problem=f"{newer} has moved it since the job ended")


def check_rule_move(
    alias: str, number: int, digest: Digest, moves: Sequence[PersonMove], *, is_frozen: bool
) -> None:
    """Refuse a rule's or a job's move that a person has ruled out; ``moves`` as for `withdrawal`.

    Raises RuleRefused.
    """
    if is_frozen:
        raise RuleRefused(alias=alias, problem="it is frozen")
    withdrawn = withdrawal(digest, moves)
    if withdrawn is not None:
        why = f" ({withdrawn.reason})" if withdrawn.reason else ""
        problem = (
            f"{withdrawn.actor} moved it back from revision {number}{why}; point it there again to allow it"
        )
        raise RuleRefused(alias=alias, problem=problem)
