"""Rows of tables about scores: of revisions, of rules, and scores themselves."""

from collections.abc import Mapping, Sequence
from typing import Any

from mint_client.core.tables import Row

Json = Any  # the gateway's JSON
_OWN_SUITE = "job:"
"""Begins the suite of a job's scores of its own revisions, which goes on with the job's id."""
_LIMITS = {
    "at_least": "at least",
    "max_drop": "max drop",
    "roll_back_below": "back below",
    "at_most": "at most",
    "max_rise": "max rise",
    "roll_back_above": "back above",
    "cooldown_seconds": "cooldown s",
}


def scored_rows(revisions: Sequence[Json], evaluations: Sequence[Json], aliases: Sequence[Json]) -> list[Row]:
    """Return revisions with the latest score of each suite and metric, and the aliases that point at them."""
    latest = {(row["number"], row["suite"], row["metric"]): row for row in evaluations}
    scores: dict[int, list[str]] = {}
    for (number, suite, metric), row in latest.items():
        named = metric if suite.startswith(_OWN_SUITE) else f"{suite} {metric}"
        scores.setdefault(number, []).append(f"{named} {_score(row)}")
    pointing: dict[int, list[str]] = {}
    for alias in aliases:
        pointing.setdefault(alias["revision"]["number"], []).append(alias["alias"])
    return [
        {**each, "scores": scores.get(each["number"]), "aliases": pointing.get(each["number"])}
        for each in revisions
    ]


def _score(row: Json) -> str:
    stderr, n = row.get("stderr"), row.get("n")
    return f"{row['value']:.3f}" + (f" ± {stderr:.3f}" if stderr else "") + (f", n {n}" if n else "")


def rule_rows(rules: Sequence[Json]) -> list[Row]:
    """Return rules, each with its score and the limits of it as lines."""
    return [{**rule, "when": [f"{rule['suite']} {rule['metric']}", *_limits(rule)]} for rule in rules]


def _limits(rule: Mapping[str, Any]) -> list[str]:
    return [f"{words} {rule[name]:g}" for name, words in _LIMITS.items() if rule.get(name)]


def seeded_rows(evaluations: Sequence[Json], runs: Sequence[Json]) -> list[Row]:
    """Return scores with the seed of the run that measured each, where there is one."""
    seeds: dict[tuple[object, ...], set[int]] = {}
    for run in runs:
        if run["revision"] is not None:
            key = run["revision"]["digest"], run["suite"], run["metric"], run["value"], run["scored"]
            seeds.setdefault(key, set()).add(run["seed"])
    return [{**row, "seeds": [str(seed) for seed in sorted(seeds.get(_key(row), ()))]} for row in evaluations]


def _key(score: Json) -> tuple[object, ...]:
    return score["digest"], score["suite"], score["metric"], score["value"], score["n"]
