"""PEFT's patterns of module names: plain names, or regular expressions, without their worst case.

The expressions come from tenants. Rust's engine matches in linear time, and refuses what it cannot.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic_core import SchemaError, SchemaValidator, core_schema

from mint_common.adapters_format.refusal import Reason, refusal, shown

_PLAIN = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_MAX_EXPRESSIONS = 16
"""Expressions of a config: each is tried on every module of the base."""
_MAX_LENGTH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class NamePatterns:
    """Values by pattern; the first that matches a module's name, or the end of it after a dot, counts."""

    plain: Mapping[str, tuple[int, float]]
    expressions: tuple[tuple[int, SchemaValidator, float], ...]

    @classmethod
    def of(cls, patterns: Mapping[str, float], *, field: str) -> "NamePatterns":
        """Read a map of a config. Raises AdapterInvalid."""
        plain: dict[str, tuple[int, float]] = {}
        expressions: list[tuple[int, SchemaValidator, float]] = []
        for place, (pattern, value) in enumerate(patterns.items()):
            if _PLAIN.fullmatch(pattern):
                plain[pattern] = (place, value)
            else:
                expressions.append((place, _compiled(pattern, field), value))
        if len(expressions) > _MAX_EXPRESSIONS:
            problem = f"{field} has {len(expressions)} regular expressions, the limit is {_MAX_EXPRESSIONS}"
            raise refusal(Reason.UNSUPPORTED_CONFIG, problem)
        return cls(plain=plain, expressions=tuple(expressions))

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self.plain or self.expressions)

    def find(self, module: str, default: float) -> float:
        """Return the value of a module."""
        if not self:
            return default
        parts = module.split(".")
        ends = (".".join(parts[begin:]) for begin in range(len(parts)))
        found = [self.plain[end] for end in ends if end in self.plain]
        found += [
            (place, value)
            for place, expression, value in self.expressions
            if expression.isinstance_python(module)
        ]
        return min(found, default=(0, default))[1]


def _compiled(pattern: str, field: str) -> SchemaValidator:
    # As `peft.utils.other.get_pattern_key` matches, in another engine.
    whole = rf"^(.*\.)?({pattern})$"
    try:
        if len(pattern) > _MAX_LENGTH:
            raise refusal(Reason.UNSUPPORTED_CONFIG, f"{field} has a pattern of {len(pattern)} characters")
        return SchemaValidator(core_schema.str_schema(pattern=whole, regex_engine="rust-regex"))
    except SchemaError as error:
        problem = f"{field} has {shown(pattern)}, which is no regular expression without look-around"
        raise refusal(Reason.UNSUPPORTED_CONFIG, problem) from error
