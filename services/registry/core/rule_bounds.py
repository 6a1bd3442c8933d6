"""The direction of a rule: whether larger or smaller scores are better, decided once for both."""

import math
from dataclasses import dataclass

from mint_common.catalog import RuleRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A rule's numbers as if larger scores were better: those of a loss with their signs changed.

    ``drop`` is the maximum score difference below the live revision, None: as much as ``least`` allows;
    the live one is rolled back below ``floor``.
    """

    sign: int
    least: float
    drop: float | None
    floor: float

    def flipped(self, value: float) -> float:
        """Return a score as larger is better; of such a value, the score."""
        return self.sign * value


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The names of the fields that give `Bounds`, and phrases for a limit and for scores."""

    least: str
    drop: str
    floor: str
    limit: str
    better: str
    worse: str


LARGER = Words(
    least="at_least",
    drop="max_drop",
    floor="roll_back_below",
    limit="at least",
    better="above",
    worse="below",
)
SMALLER = Words(
    least="at_most",
    drop="max_rise",
    floor="roll_back_above",
    limit="at most",
    better="below",
    worse="above",
)


def words_of(rule: RuleRecord) -> Words:
    """Return the words of a rule's direction."""
    return LARGER if rule.at_most is None else SMALLER


def bounds_of(rule: RuleRecord) -> Bounds:
    """Return the numbers of a rule, which has exactly one of ``at_least`` and ``at_most``."""
    if rule.at_most is None:
        assert rule.at_least is not None, rule
        floor = -math.inf if rule.roll_back_below is None else rule.roll_back_below
        return Bounds(sign=1, least=rule.at_least, drop=rule.max_drop, floor=floor)
    floor = -math.inf if rule.roll_back_above is None else -rule.roll_back_above
    return Bounds(sign=-1, least=-rule.at_most, drop=rule.max_rise, floor=floor)
