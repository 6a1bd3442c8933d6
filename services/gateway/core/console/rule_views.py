"""Moves made by promotion rules, and the scores that the rules read, from a policy's timeline."""

from collections.abc import Mapping, Sequence
from typing import Any

from mint_common.names import RULE_ACTOR

SHOWN = 10
"""Newest moves of a rule, and newest scores that it looks at."""
LIMITS = ("at_least", "max_drop", "roll_back_below", "at_most", "max_rise", "roll_back_above")
"""Fields of a rule that limit scores; each is None where the rule does not have it."""
Rules = Sequence[Mapping[str, Any]]
Events = Sequence[Mapping[str, Any]]


def decisions_of(rules: Rules, events: Events) -> dict[str, list[Mapping[str, Any]]]:
    """Return the newest moves by each rule, newest first."""
    moves = [event for event in events if event["kind"] == "alias.moved"]
    return {
        rule["rule_id"]: [move for move in moves if move["actor"] == f"{RULE_ACTOR}{rule['rule_id']}"][:SHOWN]
        for rule in rules
    }


def scores_for(rules: Rules, events: Events) -> dict[str, list[Mapping[str, Any]]]:
    """Return the newest scores in each rule's suite and metric, newest first."""
    scores = [event for event in events if event["kind"] == "evaluation.recorded"]
    return {
        rule["rule_id"]: [
            score for score in scores if score["subject"] == f"{rule['suite']}/{rule['metric']}"
        ][:SHOWN]
        for rule in rules
    }


def verdict(rule: Mapping[str, Any], value: float) -> str:
    """Return what a score alone means to a rule; the live revision's score may still rule a move out."""
    sign, least, floor = 1, rule["at_least"], rule["roll_back_below"]
    if least is None:
        sign, least, floor = -1, rule["at_most"], rule["roll_back_above"]
    if sign * value >= sign * least:
        return "good enough"
    if floor is not None and sign * value < sign * floor:
        return "rolls back the live revision"
    return "not good enough"
