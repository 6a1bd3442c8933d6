"""Structures of answers that are small and take seconds or minutes of xgrammar."""

from typing import Any

AMBIGUOUS_RULES = "\n".join(
    ["root ::= r0", *(f"r{i} ::= r{i + 1} r{i + 1} | r{i + 1}" for i in range(60)), 'r60 ::= "a"']
)
"""A grammar: to find the tokens that may be first takes seconds, if one is long."""

MANY_PROPERTIES: dict[str, Any] = {
    "type": "object",
    "properties": {f"p{number}": {"type": "string"} for number in range(200)},
    "minProperties": 50,
}
"""A JSON schema: to compile it takes minutes, even with a small vocabulary."""
