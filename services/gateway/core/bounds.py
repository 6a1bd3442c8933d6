"""Checks of single numbers, each naming the field that is wrong."""

import math

from mint_common.errors import InvalidField


def check_between(field: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high], or one that is not finite."""
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidField(field=field, problem=f"must be between {low:g} and {high:g}, got {value!r}")


def check_positive(field: str, value: float, high: float) -> None:
    """Refuse a number outside (0, high], or one that is not finite."""
    if not (math.isfinite(value) and 0 < value <= high):
        raise InvalidField(field=field, problem=f"must be above 0 and at most {high:g}, got {value!r}")


def check_not_negative(field: str, value: float) -> None:
    """Refuse a number below 0, or one that is not finite."""
    if not (math.isfinite(value) and value >= 0):
        raise InvalidField(field=field, problem=f"must be a finite number of at least 0, got {value!r}")
