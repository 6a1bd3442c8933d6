"""Checks of single numbers, each naming the field that is wrong.

NaN fails every comparison, and comparing works for integers that are too large for a float.
"""

import math

from mint_common.errors import InvalidField


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
