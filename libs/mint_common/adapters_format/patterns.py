"""PEFT's patterns of module names: plain names, or regular expressions, without their worst case.

The expressions come from tenants. Rust's engine matches in time linear in the name and in the expression, and
refuses what it cannot; so the number, length and repetitions of expressions are bounded before it reads one.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic_core import SchemaError, SchemaValidator, core_schema

from mint_common.adapters_format.refusal import Reason, refusal, shown

_PLAIN = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_MAX_EXPRESSIONS = 16
"""Expressions of a config: each is tried on every module of the base."""
_MAX_LENGTH = 200
_REPEATED = re.compile(r"\{(\d+)(?:,(\d*))?\}", re.ASCII)
_MAX_REPETITIONS = 16
"""Largest product of an expression's counted repetitions, which its states grow by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamePatterns:
    """Values by pattern; the first that matches a module's name, or the end of it after a dot, counts."""

    plain: Mapping[str, tuple[int, float]]
    expressions: tuple[tuple[int, SchemaValidator, float], ...]

    @classmethod
    def of(cls, patterns: Mapping[str, float], *, field: str) -> "NamePatterns":
        """Read a map of a config. Raises AdapterInvalid."""
        count = sum(not _PLAIN.fullmatch(pattern) for pattern in patterns)
        if count > _MAX_EXPRESSIONS:
            problem = f"{field} has {count} regular expressions, the limit is {_MAX_EXPRESSIONS}"
            raise refusal(Reason.UNSUPPORTED_CONFIG, problem)
        plain: dict[str, tuple[int, float]] = {}
        expressions: list[tuple[int, SchemaValidator, float]] = []
        for place, (pattern, value) in enumerate(patterns.items()):
            if _PLAIN.fullmatch(pattern):
                plain[pattern] = (place, value)
            else:
                expressions.append((place, _compiled(pattern, field), value))
        return cls(plain=plain, expressions=tuple(expressions))

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self.plain or self.expressions)

    def find(self, module: str, default: float) -> float:
        """Return the value of a module."""
        if not self:
            return default
        found = [self.plain[end] for end in ends_of(module) if end in self.plain]
        found += [
            (place, value)
            for place, expression, value in self.expressions
            if expression.isinstance_python(module)
        ]
        return min(found, default=(0, default))[1]


def ends_of(module: str) -> Iterator[str]:
    """Yield a module's name and its ends after each dot."""
    parts = module.split(".")
    return (".".join(parts[begin:]) for begin in range(len(parts)))


def _compiled(pattern: str, field: str) -> SchemaValidator:
    if len(pattern) > _MAX_LENGTH:
        raise refusal(Reason.UNSUPPORTED_CONFIG, f"{field} has a pattern of {len(pattern)} characters")
    repetitions = math.prod(max(map(int, filter(None, each))) for each in _REPEATED.findall(pattern))
    if repetitions > _MAX_REPETITIONS:
        problem = f"{field} has {shown(pattern)}, which repeats up to {repetitions} times: write it out"
        raise refusal(Reason.UNSUPPORTED_CONFIG, problem)
    # As `peft.utils.other.get_pattern_key` matches, in another engine.
    whole = rf"^(.*\.)?({pattern})$"
    try:
        return SchemaValidator(core_schema.str_schema(pattern=whole, regex_engine="rust-regex"))
    except SchemaError as error:
        problem = f"{field} has {shown(pattern)}, which is no regular expression without look-around"
        raise refusal(Reason.UNSUPPORTED_CONFIG, problem) from error
