"""Checks of single numbers, each naming the field that is wrong.

NaN fails every comparison, and comparing works for integers that are too large for a float.
"""

import math

from mint_common.errors import InvalidField

DAY_SECONDS = 86_400.0
MAX_SAMPLED_TOKENS = 4 << 20
"""Maximum tokens of a step's answers: rollout and trainer hold them decoded, at 84 bytes a token and more
than once."""


def check_between(field: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high]."""
    if not low <= value <= high:
        raise InvalidField(field=field, problem=f"must be between {low} and {high}, got {value!r}")


def check_positive(field: str, value: float, high: float) -> None:
    """Refuse a number outside (0, high]."""
    if not 0 < value <= high:
        raise InvalidField(field=field, problem=f"must be above 0 and at most {high}, got {value!r}")


def check_not_negative(field: str, value: float) -> None:
    """Refuse a number below 0, or one that is not finite."""
    if not 0 <= value < math.inf:
        raise InvalidField(field=field, problem=f"must be a finite number of at least 0, got {value!r}")


def check_sampled_tokens(prompts: tuple[str, int], samples: tuple[str, int], tokens: tuple[str, int]) -> None:
    """Refuse a step with more than `MAX_SAMPLED_TOKENS` in its answers, given fields and their values."""
    found = prompts[1] * samples[1] * tokens[1]
    if found > MAX_SAMPLED_TOKENS:
        problem = (
            f"{prompts[1]}, with {samples[0]} {samples[1]} and {tokens[0]} {tokens[1]}, is {found:,} tokens"
            f" a step, the limit is {MAX_SAMPLED_TOKENS:,}: lower one of the three"
        )
        raise InvalidField(field=prompts[0], problem=problem)
